"""A deterministic engine without a model: for trying a configuration, for tests, and for measuring overhead.

It plays a reasoner on one kind of question: add up all whole numbers that the question names. Each step adds the next
share of the numbers to a running total and, with probability 1 - skill, slips. Scoring sees a slip as a model would: the
answer becomes unlikely. As a judge it looks whether the totals are right, and is wrong itself with probability 1 - skill.
Invariant: a reply depends on (config, request) alone, so a run can be repeated bit by bit.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from agents.engines.base import AnswerLogprobs, Capabilities, Completion, Prompt, as_turns
from agents.errors import Terminal
from agents.prompts import ATTEMPT
from configs.engines import ScriptedEngine as Config
from store.reasoning import THINK_CLOSE
from store.types import Usage, content_id

_STEP = re.compile(r"^### Step \d+\.", re.MULTILINE)
_QUOTED = re.compile(r"^([A-Z ]+):\n\[(\w+)\]\n(.*?)\n\[/\2\]$", re.MULTILINE | re.DOTALL)
_TOTAL = re.compile(r"the total is (-?\d+)")
_CONTEXT_TOKENS = 1 << 20


class ScriptedEngine:
    """The engine of `kind: scripted`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    @property
    def capabilities(self) -> Capabilities:
        """It can do everything."""
        return Capabilities(
            model=f"scripted:{self._config.seed}",
            found="built in",
            device="none",
            dtype="none",
            scores=True,
            continues=True,
            context_tokens=_CONTEXT_TOKENS,
            structures=True,
        )

    async def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Continue the running total of `prompt`; one word is one token. Raises `Terminal` at `failure_rate`."""
        await asyncio.sleep(self._config.latency_s)
        key = content_id(self._config.seed, prompt.messages[-1].content, prompt.prefix, temperature, seed)
        self._fail_at_times(key)
        if prompt.schema:
            return [self._ruling(prompt, max_tokens) for _ in range(n)]
        words = len(prompt.prefix.split()) + sum(len(message.content.split()) for message in prompt.messages)
        return [_cut(self._write(prompt, key, sample), words, max_tokens, stop, logprobs) for sample in range(n)]

    async def answer_logprobs(self, context: Prompt, answer: str) -> AnswerLogprobs:
        """One token a character: near 0 after steps without a slip, the more so the more steps there are.

        Raises `Terminal` at `failure_rate`.
        """
        await asyncio.sleep(self._config.latency_s)
        sums = self._partial_sums(context)
        progress = _progress(context.prefix)
        right = answer == str(sums[-1]) and progress.total == sums[min(progress.steps, len(sums)) - 1]
        key = content_id(self._config.seed, context.messages[-1].content, context.prefix, answer)
        self._fail_at_times(key)
        value = -0.05 * (len(sums) - min(progress.steps, len(sums))) - 0.01 * _draw(key, "score") - (0.0 if right else 2.0)
        words = len(context.prefix.split())
        values = (value,) * max(1, len(answer))
        return AnswerLogprobs(values=values, usage=Usage(prompt=words + 1, cached=words), tokens=tuple(answer))

    def shown(self, prompt: Prompt) -> str:
        """The turns: it has no template."""
        return as_turns(prompt.messages, prompt.prefix)

    def _fail_at_times(self, key: str) -> None:
        if _draw(key, "failure") < self._config.failure_rate:
            raise Terminal("scripted failure")

    def _ruling(self, prompt: Prompt, max_tokens: int) -> Completion:
        """Whether the totals of the quoted reasoning are the question's."""
        asked = prompt.messages[1].content
        quoted = {name: text for name, _, text in _QUOTED.findall(asked)}
        totals = [int(total) for total in _TOTAL.findall(quoted["REASONING"])]
        sound = totals == self._totals(quoted["QUESTION"]) and _draw(self._config.seed, asked, "slip") < self._config.skill
        unsound = totals != self._totals(quoted["QUESTION"]) and _draw(self._config.seed, asked, "slip") >= self._config.skill
        ruling = "VALID" if sound or unsound else "INVALID"
        text = json.dumps({"reason": f"the totals are {totals}", "ruling": ruling})
        return _cut(text, len(asked.split()), max_tokens, (), logprobs=False)

    def _partial_sums(self, prompt: Prompt) -> list[int]:
        """The right total after each step."""
        return self._totals(prompt.messages[-1].content.partition(f"\n\n{ATTEMPT} 1:")[0])  # attempts have numbers of their own

    def _totals(self, question: str) -> list[int]:
        numbers = [int(number) for number in re.findall(r"\d+", question)]
        steps = self._config.steps
        shares = [sum(numbers[index::steps]) for index in range(steps)]
        return [sum(shares[: index + 1]) for index in range(steps)]

    def _write(self, prompt: Prompt, key: str, sample: int) -> str:
        """All that is still to be written after `prompt.prefix`, as if nothing stopped it."""
        sums = self._partial_sums(prompt)
        progress = _progress(prompt.prefix)
        total = progress.total
        if progress.closed:
            return f"{total}."
        lines: list[str] = []
        for step in range(progress.steps, len(sums)):
            share = sums[step] - (sums[step - 1] if step else 0)
            slip = 0 if _draw(key, "slip", sample, step) < self._config.skill else 1 + int(3 * _draw(key, "size", sample, step))
            total += share + slip
            lead = "" if progress.header and not lines else f"### Step {step + 1}."
            lines.append(f"{lead} Add {share}: the total is {total}.")
        return "\n".join(lines) + f"{THINK_CLOSE}The final answer is {total}."


@dataclass(frozen=True, slots=True)
class _Progress:
    steps: int
    total: int
    header: bool
    closed: bool


def _progress(prefix: str) -> _Progress:
    """How far a reasoning is: whole steps, the last total, whether it ends in an open header, whether it is closed."""
    totals = _TOTAL.findall(prefix)
    return _Progress(
        steps=len(totals),
        total=int(totals[-1]) if totals else 0,
        header=len(_STEP.findall(prefix)) > len(totals),
        closed="</think>" in prefix,
    )


def _cut(text: str, words: int, max_tokens: int, stop: Sequence[str], logprobs: bool) -> Completion:
    """`text` up to its earliest stop string and at most `max_tokens` words."""
    found = min(((text.find(s), s) for s in stop if s in text), default=None)
    kept = text if found is None else text[: found[0]]
    tokens = re.findall(r"\s*\S+", kept)
    finish = "length" if len(tokens) > max_tokens else "end" if found is None else "stop"
    tokens = tokens[:max_tokens]
    return Completion(
        text="".join(tokens),
        finish=finish,
        stop=found[1] if found and finish == "stop" else None,
        usage=Usage(prompt=words, completion=len(tokens)),
        logprobs=(0.0,) * len(tokens) if logprobs else None,
    )


def _draw(*key: object) -> float:
    """A number in [0, 1) from `key`."""
    return int(content_id(*key)[:13], 16) / 16**13
