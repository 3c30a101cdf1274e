"""HTTP to one model server: JSON in, JSON or a stream of JSON out, every failure classified.

Invariant: every request ends within its deadlines, as an answer or as an `EngineError` of one line; a kept-alive connection
that the server closed meanwhile is no failure. Not covered: what the JSON means (`dialects.py`), retries (they wrap engines).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from agents.errors import EngineError, Overlong, Refused, Retryable, Terminal, Throttled, TimedOut, Unreadable

Json = dict[str, Any]

CONNECT_S = 10.0
MAX_ANSWER_BYTES = 64 << 20
"""A whole answer that is longer is not read to its end."""

_SHOWN = 200
_OVERLONG = ("context length", "maximum context", "max_model_len", "longer than", "too long", "max_total_tokens", "exceeds")


class Wire:
    """Requests to the server at `url`. Open with `async with`.

    `deadline_s` is for a whole request, `silence_s` for the wait between two pieces of a stream. `key` is sent as a bearer token.
    """

    def __init__(self, url: str, *, key: str | None = None, deadline_s: float, silence_s: float) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._deadline_s = deadline_s
        self._silence_s = silence_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers=self._headers,
            json_serialize=_compact,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session:
            await self._session.close()

    async def get(self, path: str) -> Json:
        """The JSON object at `path`. Raises `EngineError`."""
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """The JSON object that answers `body`. Raises `EngineError`."""
        return await self._whole("POST", path, body)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Json, None]:
        """The events that answer `body`, up to `[DONE]`; leaving the loop early closes the connection.

        Raises `EngineError`; a stream that ends without `[DONE]` is `Retryable`.
        """
        async with self._classified(path), asyncio.timeout(self._deadline_s), self._asked("POST", path, body) as response:
            while line := await asyncio.wait_for(response.content.readline(), self._silence_s):
                data = line.strip()
                if not data.startswith(b"data:"):
                    continue
                data = data[5:].strip()
                if data == b"[DONE]":
                    return
                event = self._object(path, data)
                if event.get("error"):
                    raise Retryable(f"{self.url}{path}: the stream ended with an error: {_said(event)}")
                yield event
            raise Retryable(f"{self.url}{path}: the stream was cut")

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> Json:
        async with self._classified(path), asyncio.timeout(self._deadline_s), self._asked(method, path, body) as response:
            return self._object(path, await self._read(path, response))

    @asynccontextmanager
    async def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200; asked once more when a kept-alive connection turned out to be closed."""
        assert self._session, "the wire is not open"
        url = self.url + path
        try:
            response = await self._session.request(method, url, json=body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            response = await self._session.request(method, url, json=body)
        try:
            if response.status != 200:
                text = (await response.content.read(1 << 16)).decode(errors="replace")
                raise classify(f"{url}: {response.status}", response.status, text, response.headers.get("Retry-After"))
            yield response
        finally:
            response.release()  # a response that was not read to its end takes its connection with it

    async def _read(self, path: str, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > MAX_ANSWER_BYTES:
                raise Unreadable(f"{self.url}{path}: the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
        return bytes(data)

    def _object(self, path: str, data: bytes) -> Json:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            shown = data[:_SHOWN].decode(errors="replace")
            raise Unreadable(f"{self.url}{path}: not a JSON object: {shown!r}")
        return found

    @asynccontextmanager
    async def _classified(self, path: str) -> AsyncIterator[None]:
        try:
            yield
        except EngineError:
            raise
        except TimeoutError as error:
            late = f"no answer in {self._deadline_s:g} s, or silent for {self._silence_s:g} s"
            raise TimedOut(f"{self.url}{path}: {late}") from error
        except (HttpProcessingError, ValueError) as error:
            raise Unreadable(f"{self.url}{path}: a line or header beyond all bounds, or no HTTP at all") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Retryable(f"{self.url}{path}: {one_line(str(error) or type(error).__name__)}") from error


def classify(where: str, status: int, text: str, retry_after: str | None = None) -> EngineError:
    """The error that an answer with `status` and body `text` is."""
    said = _said_in(text)
    message = f"{where}: {said}" if said else where
    if status in (401, 403):
        return Refused(f"{message} (is the key right?)")
    if status in (400, 413, 422) and any(sign in said.lower() for sign in _OVERLONG):
        return Overlong(message)
    if status in (429, 503, 529):
        return Throttled(message, _after_s(retry_after), counted=status == 429)
    if status in (408, 504):
        return TimedOut(message, _after_s(retry_after))
    if status in (409, 425) or status >= 500:
        return Retryable(message, _after_s(retry_after))
    return Terminal(message)


def _after_s(retry_after: str | None) -> float | None:
    """Seconds from now, of a Retry-After header: a number or a date; None when there is none that can be read."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _said_in(text: str) -> str:
    """What an error's body says: OpenAI's envelope, SGLang's and FastAPI's are known, else its beginning."""
    try:
        body = json.loads(text)
    except ValueError:
        return one_line(text)
    return _said(body) if isinstance(body, dict) else one_line(text)


def _said(body: Json) -> str:
    for key in ("error", "message", "detail"):
        if value := body.get(key):
            return _said(value) if isinstance(value, dict) else one_line(str(value))
    return one_line(_compact(body))


def one_line(text: str) -> str:
    """`text` in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
