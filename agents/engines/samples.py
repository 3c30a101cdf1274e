"""Several samples of one prompt that are a request each: what is finished when another one fails is kept for the retry.

Invariant: no sample is paid for twice because of its neighbours; its usage is told once, with the error or with the answer.
Not covered: servers that draw all samples in one request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from agents.engines.base import Completion, together
from agents.errors import EngineError
from store.types import Usage

_MOST = 4096


class Samples:
    """The finished samples of requests that failed in part."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], Completion] = OrderedDict()

    async def of(self, request: str, asked: Sequence[Callable[[], Awaitable[Completion]]]) -> list[Completion]:
        """All samples of `request`, made by `asked`, all at once. Raises the first error, when all have ended."""

        async def one(index: int) -> Completion | EngineError:
            if kept := self._kept.get((request, index)):
                return kept
            try:
                return await asked[index]()
            except EngineError as error:
                return error

        found = await together([one(index) for index in range(len(asked))])
        done = {index: each for index, each in enumerate(found) if isinstance(each, Completion)}
        if errors := [each for each in found if isinstance(each, EngineError)]:
            raise self._keep(request, done, errors)
        for index in done:
            self._kept.pop((request, index), None)
        return [done[index] for index in range(len(asked))]

    def _keep(self, request: str, done: dict[int, Completion], errors: list[EngineError]) -> EngineError:
        """The first error, with what all have spent; the finished samples are kept, as paid."""
        spent = sum((each.usage for each in done.values()), Usage())
        spent = sum((error.usage for error in errors if error.usage), spent)
        for index, each in done.items():
            self._kept[request, index] = replace(each, usage=Usage())
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        errors[0].usage = spent if spent != Usage() else None
        return errors[0]
