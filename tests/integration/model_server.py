"""A small program in place of vLLM. The environment says who it is: NAME, and FOLDER, where it keeps what a test wants to know:

    NAME.lives   for each life a line: its process id and its arguments
    NAME.asked   for each request a line: its body
    NAME.ending  when it was told to end
    NAME.ended   when it has ended by itself

AWAITS: names, with spaces between them; it answers /health once all of them have a life, and ends once all of these were told
to end. Files of a test's: while there is a NAME.silent it does not answer /health, with a NAME.refuses it ends at its start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Three routes; every completion is "five"."""

    protocol_version = "HTTP/1.1"
    model: str

    def do_GET(self) -> None:
        if self.path == "/health":
            ready = all(kept(name, "lives").exists() for name in awaited())
            self._answer({}, 200 if ready and not kept(os.environ["NAME"], "silent").exists() else 503)
        else:
            self._answer({"data": [{"id": self.model, "owned_by": "model_server"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        add_line("asked", json.dumps(body))
        choice = {"index": 0, "text": "five", "finish_reason": "stop"}
        if body.get("messages"):
            choice["delta"] = {"content": "five"}
        if body.get("stream"):
            self._send(f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n", "text/event-stream")
        else:
            self._answer({"choices": [choice]})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value), "application/json", status)

    def _send(self, text: str, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def kept(name: str, what: str) -> Path:
    return Path(os.environ["FOLDER"], f"{name}.{what}")


def add_line(what: str, line: str) -> None:
    with kept(os.environ["NAME"], what).open("a") as lines:
        lines.write(f"{line}\n")


def awaited() -> list[str]:
    return os.environ.get("AWAITS", "").split()


def end(*_: Any) -> None:
    add_line("ending", "")
    while not all(kept(name, "ending").exists() for name in awaited() if kept(name, "lives").exists()):
        time.sleep(0.02)
    add_line("ended", "")
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    if kept(os.environ["NAME"], "refuses").exists():
        sys.exit("it refuses to start")
    options = dict(zip(sys.argv, sys.argv[1:], strict=False))
    Handler.model = options["--served-model-name"]
    add_line("lives", " ".join([str(os.getpid()), *sys.argv[1:]]))
    ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
