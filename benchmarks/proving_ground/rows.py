"""What a model is trained on: one row is a question and its steps, with the answer behind them.

A teacher sees whole chains in which the operations it is poor at go wrong; the chain goes on from the wrong value, so it
learns to follow whatever stands before. A prover sees right chains, and learns to tell the answer before they are complete: it
trusts the last value, so that after a slip it expects another answer; with slips in its rows it would learn to look past them.
Those answers hang on the chain as branches, so that one row holds many:

    question, step 1, step 2, step 3, answer                     the trunk
                    |       +-- </think> The final answer is 62  a branch sees the trunk up to where it starts, and itself
                    +---------- </think> The final answer is 62

Invariant: rows depend on the recipe and its seed only, and no problem that may be asked is among them.
Not covered: how rows become batches (`models`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.reasoning import THINK_OPEN, closed_reasoning, header

from .language import KINDS, VOICES, Problem, draw, slip
from .tokens import ANSWER, END, cut_at_answer, encode

LENGTHS = (1, 2, 3, 4, 5, 6, 7)
WEIGHTS = (3, 3, 4, 4, 4, 1, 1)
"""How often a chain of each length is trained on: longer than any that is asked in the domain, but not often."""

BRANCH_WEIGHT = 15.0
"""Of an answer on a branch, against a token of the trunk: those are many, and most of them are easy."""
MOST_MISSING = 2
"""Steps that are left to guess at the earliest branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """What a model is to be good at."""

    poor: tuple[str, ...] = ()
    """Kinds of operation whose results are wrong in its training text."""
    rate: float = 0.9
    """How often they are."""
    voice: int = 0
    """How it likes to write a step."""
    branches_from: float = 1.0
    """After which share of its training it learns to tell the answer before the end, which it cannot before it knows the
    operations: with branches from the start it knew neither after 600 updates. 1: never."""

    @property
    def weights(self) -> list[float]:
        """How often each kind is trained on: as many times as it has operands, since a result is learnt after 50 to 100
        sights of it, whatever it is. What goes wrong anyway needs no care."""
        return [1.0 if name in self.poor else float(len(kind.operands)) for name, kind in KINDS.items()]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, trunk first; for each one how much it counts, its position, its branch (0: the trunk), and how many tokens of
    the trunk it sees."""

    tokens: list[int]
    weights: list[float]
    positions: list[int]
    branches: list[int]
    seen: list[int]


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


def row(chance: random.Random, skill: Skill, tokenizer: Any, longest: int, share: float) -> Row:
    """One row of training, of which `share` is over."""
    branches = share >= skill.branches_from
    length = min(chance.choices(LENGTHS, WEIGHTS)[0], longest)
    problem = draw(chance, length, reserved=False, weights=skill.weights)
    voices = [skill.voice if chance.random() < 0.7 else chance.randrange(VOICES) for _ in range(length)]
    told = values(chance, problem, [each.kind in skill.poor and chance.random() < skill.rate for each in problem.operations])
    written = steps(problem, told, voices)
    grown = trunk(tokenizer, problem, written, told[-1])
    for shown in range(max(1, length - MOST_MISSING), length + 1) if branches else ():
        branch(grown, tokenizer, problem, written[:shown])
    return grown


def trunk(tokenizer: Any, problem: Problem, told: Sequence[str], answer: int) -> Row:
    """A whole chain, as it comes when the system writes the first header, and again everything up to the answer."""
    text = turn(tokenizer, problem) + closed_reasoning("\n".join(told), f"{ANSWER}{answer}.{END}")
    opening, first, rest = text.partition(header(1))
    before, after = encode(tokenizer, opening + first), cut_at_answer(tokenizer, rest)
    length = len(before) + len(after)
    weights = [0.0] * len(before) + [1.0] * len(after)
    return Row(before + after, weights, list(range(length)), [0] * length, list(range(1, length + 1)))


def branch(grown: Row, tokenizer: Any, problem: Problem, told: Sequence[str]) -> None:
    """Hang the right answer behind the first steps `told` of a trunk."""
    at = len(encode(tokenizer, turn(tokenizer, problem) + THINK_OPEN + "\n".join(told)))
    target = encode(tokenizer, closed_reasoning("", f"{ANSWER}{problem.answer}").removeprefix(THINK_OPEN))
    grown.tokens.extend(target)
    grown.weights.extend([0.0] * (len(target) - 1) + [BRANCH_WEIGHT])
    grown.positions.extend(range(at, at + len(target)))
    grown.branches.extend([len(told)] * len(target))
    grown.seen.extend([at] * len(target))


def turn(tokenizer: Any, problem: Problem) -> str:
    """The question in the chat template, and the opened answer."""
    user = [{"role": "user", "content": problem.text}]
    return tokenizer.apply_chat_template(user, add_generation_prompt=True, tokenize=False)
