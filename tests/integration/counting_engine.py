"""The scripted engine, with what a test wants to know and to happen: who asked what, and errors at chosen calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Engine, Prompt
from agents.engines.scripted import ScriptedEngine
from agents.ledger import Model
from agents.limits import Gate
from configs.engines import ScriptedEngine as Config


class CountingEngine:
    """An engine around the scripted one. `before` is called with the kind and the number of each call, and may raise."""

    def __init__(self, config: Config, before: Callable[[str, int], None] = lambda kind, number: None) -> None:
        self._inner = ScriptedEngine(config)
        self._before = before
        self.asked: list[str] = []
        self.answered = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def generate(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
        self._ask("generate")
        completions = await self._inner.generate(prompt, **sampling)
        self.answered += 1
        return completions

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        self._ask("score")
        scored = await self._inner.answer_logprobs(context, answer)
        self.answered += 1
        return scored

    def shown(self, prompt: Prompt) -> str:
        return self._inner.shown(prompt)

    def _ask(self, kind: str) -> None:
        self.asked.append(kind)
        self._before(kind, len(self.asked))


def model(engine: Engine, identity: str = "scripted", tries: int = 3) -> Model:
    return Model(name="engine", identity=identity, engine=engine, gate=Gate(tries=tries))
