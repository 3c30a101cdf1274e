"""What a model is trained on: one row is a question, its steps, an answer, and where the loss counts.

A teacher sees whole chains in which the operations it is poor at go wrong; the chain goes on from the wrong value, so it
learns to follow whatever stands before. A prover also sees unfinished and wrong chains that end in the right answer: it
learns how far the answer can be told from what stands there.

Invariant: rows depend on the recipe and its seed only, and no problem that may be asked is among them.
Not covered: how rows become batches (`models`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.reasoning import closed_reasoning, header

from .language import KINDS, VOICES, Problem, draw, slip
from .tokens import ANSWER, END, cut_at_answer, encode

LENGTHS = (1, 2, 3, 4, 5, 6, 7)
WEIGHTS = (3, 3, 4, 4, 4, 1, 1)
"""How often a chain of each length is trained on: longer than any that is asked in the domain, but not often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """What a model is to be good at."""

    poor: tuple[str, ...] = ()
    """Kinds of operation whose results are wrong in its training text."""
    rate: float = 0.9
    """How often they are."""
    voice: int = 0
    """How it likes to write a step."""
    unfinished: float = 0.0
    """Share of rows that end in the answer before, or at, the end of the chain; the loss is on the answer only."""
    wrong: float = 0.0
    """Share of the unfinished rows with a wrong step."""

    @property
    def weights(self) -> list[float]:
        """How often each kind is trained on. One with operands has more to learn: after 700 even updates it stood at 10 to
        60%, and the others at 100%. What goes wrong anyway needs no care."""
        return [1.0 if name in self.poor else len(kind.operands) ** 0.5 for name, kind in KINDS.items()]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and the place of the first one that counts."""

    tokens: list[int]
    first: int


def steps(problem: Problem, told: Sequence[int], voices: Sequence[int]) -> list[str]:
    """The steps that write the values `told`, each going on from the one before, headers included."""
    before = (problem.start, *told)
    each = zip(problem.operations, before, told, voices, strict=False)
    bodies = (operation.told(x, y, voice) for operation, x, y, voice in each)
    return [f"{header(index)} {body}" for index, body in enumerate(bodies, start=1)]


def values(chance: random.Random, problem: Problem, goes_wrong: Sequence[bool]) -> list[int]:
    """The value after each step, where some steps slip; each goes on from the value before."""
    found, x = [], problem.start
    for operation, wrong in zip(problem.operations, goes_wrong, strict=True):
        x = operation.apply(x)
        x = slip(chance, x) if wrong else x
        found.append(x)
    return found


def row(chance: random.Random, skill: Skill, tokenizer: Any, longest: int) -> Row:
    """One row of training."""
    length = min(chance.choices(LENGTHS, WEIGHTS)[0], longest)
    problem = draw(chance, length, reserved=False, weights=skill.weights)
    voices = [skill.voice if chance.random() < 0.7 else chance.randrange(VOICES) for _ in range(length)]
    if chance.random() < skill.unfinished:
        return _unfinished(chance, skill, tokenizer, problem, voices)
    told = values(chance, problem, [each.kind in skill.poor and chance.random() < skill.rate for each in problem.operations])
    reasoning = closed_reasoning("\n".join(steps(problem, told, voices)), ANSWER)
    opening, first, rest = (_turn(tokenizer, problem) + reasoning + f"{told[-1]}.{END}").partition(header(1))
    before = encode(tokenizer, opening + first)
    return Row(before + cut_at_answer(tokenizer, rest), len(before))


def _unfinished(chance: random.Random, skill: Skill, tokenizer: Any, problem: Problem, voices: Sequence[int]) -> Row:
    """Some first steps, one of them perhaps wrong, then the right answer; mostly the last one or two steps are missing."""
    length = len(problem.operations)
    shown = max(1, length - chance.choices((0, 1, 2, 3), (2, 4, 3, 1))[0])
    wrong_at = chance.randrange(shown) if chance.random() < skill.wrong else -1
    told = values(chance, problem, [index == wrong_at for index in range(length)])[:shown]
    text = _turn(tokenizer, problem) + closed_reasoning("\n".join(steps(problem, told, voices)), ANSWER)
    tokens = encode(tokenizer, f"{text}{problem.answer}.{END}")
    return Row(tokens, len(tokens) - len(encode(tokenizer, f"{problem.answer}.{END}")))


def _turn(tokenizer: Any, problem: Problem) -> str:
    user = [{"role": "user", "content": problem.text}]
    return tokenizer.apply_chat_template(user, add_generation_prompt=True, tokenize=False)
