"""From lessons to forward passes: Lesson -> Example -> (which examples, when: `plan.py`) -> Batch.

Invariant: the prompt's characters are never learnt, the response's always; an example is whole or left out, never cut.
Not covered: chat templates (`student.Chat`), what a response looks like (`store.reasoning`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from store.reasoning import THINK_CLOSE, THINK_OPEN, user_text
from store.types import Lesson
from trainers.alignment import begins_of
from trainers.compatibility import thinking_words


class Template(Protocol):
    """How a model's conversations are written down and tokenised."""

    end_of_turn: str

    def prompt(self, user: str, system: str | None) -> str:
        """The conversation up to where the response begins."""
        ...

    def inert(self, text: str) -> str:
        """`text` as data: none of the model's special tokens can be read out of it."""
        ...

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of `text`, and the characters from and to which each goes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A lesson in tokens; those from `first` on are the response.

    `begins` are the characters of `response` (without the end of the turn) at which its tokens begin. `rationale` and `answer`
    are ranges of tokens: what is thought, and the right answer where it stands in a common conclusion. `thinking` says of each
    token of the rationale whether it is part of a word that opens a thought.
    """

    trajectory: str
    question: str
    tokens: tuple[int, ...]
    first: int
    response: str = ""
    begins: tuple[int, ...] = ()
    rationale: tuple[int, int] = (0, 0)
    answer: tuple[int, int] = (0, 0)
    thinking: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a student's lessons are written down."""

    template: Template
    system: str | None = None
    common: str | None = None
    """What leads to the right answer in the conclusion that all share; None: each trajectory keeps its own."""
    thinking_words: tuple[str, ...] = ()

    def example(self, lesson: Lesson) -> Example:
        """Tokenise prompt and response at once; a token that holds any character of the prompt belongs to the prompt.

        Raises `ValueError` for a lesson without any reasoning or conclusion, or without the answer that a common one needs.
        """
        template, trajectory = self.template, lesson.trajectory
        conclusion, answer = self._conclusion(lesson)
        prompt = template.prompt(user_text(lesson.question), self.system)
        opened = template.inert(THINK_OPEN + trajectory.text)
        response = opened + THINK_CLOSE + template.inert(conclusion)
        tokens, offsets = template.encode(prompt + response + template.end_of_turn)
        first = max(1, bisect_left(offsets, (len(prompt), 0)))
        own = tuple(begins_of([(max(0, begin - len(prompt)), end - len(prompt)) for begin, end in offsets[first:]]))
        at_answer = _range(own, len(response) - len(answer), len(response)) if answer else (0, 0)
        rationale = _range(own, len(THINK_OPEN), len(opened))
        return Example(
            trajectory=trajectory.id,
            question=lesson.question.id,
            tokens=tuple(tokens),
            first=first,
            response=response,
            begins=own,
            rationale=(first + rationale[0], first + rationale[1]),
            answer=(first + at_answer[0], first + at_answer[1]) if answer else (0, 0),
            thinking=_inside(own, rationale, opened, self.thinking_words),
        )

    def _conclusion(self, lesson: Lesson) -> tuple[str, str]:
        """What follows the reasoning, and the right answer at its end."""
        own = lesson.trajectory.conclusion
        if not (lesson.trajectory.text.strip() and own.strip()):
            raise ValueError("it has no reasoning" if own.strip() else "its answer is empty")
        if self.common is None:
            return own, ""
        target = (lesson.target or "").strip()
        if not target:
            raise ValueError("its question has no right answer for a common conclusion")
        answer = self.template.inert(target)
        return self.common + answer, answer


@dataclass(slots=True)
class Examples:
    """The lessons in tokens, by trajectory, and how many could not be learnt."""

    writing: Writing
    longest: int
    alone: bool
    """Nobody shares the batches: what cannot be learnt is in none."""
    by_trajectory: dict[str, Example] = field(default_factory=dict)
    too_long: int = 0
    unfit: dict[str, str] = field(default_factory=dict)
    """Why, by trajectory."""

    @property
    def left_out(self) -> int:
        """How many lessons are not learnt."""
        return self.too_long + len(self.unfit)

    def __call__(self, lesson: Lesson) -> bool:
        """Make an example; whether the lesson takes part in the batches."""
        try:
            example = self.writing.example(lesson)
        except ValueError as error:
            self.unfit[lesson.trajectory.id] = str(error)
            return not self.alone
        if len(example.tokens) > self.longest:
            self.too_long += 1
            return not self.alone
        self.by_trajectory[lesson.trajectory.id] = example
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one forward pass, padded on the right. `places` count through all of B x T; other indices through the N."""

    trajectories: tuple[str, ...]
    tokens_BT: Tensor
    places_N: Tensor
    """Of the token before each response token: where it is predicted."""
    labels_N: Tensor
    """The response tokens."""
    rows_N: Tensor
    """Which row each of them is in."""
    questions_B: Tensor
    """Which question each row is about, from 0."""
    rationale_R: Tensor
    """Which of the N are tokens of a rationale."""
    thinking_R: Tensor
    """Which of those are part of a word that opens a thought."""
    answers: tuple[tuple[int, int], ...]
    """Which of the N are each row's right answer: from, to."""

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        moved = {name: value.to(device) for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}
        return Batch(trajectories=self.trajectories, answers=self.answers, **moved)


def collate(examples: Sequence[Example], *, width: int = 0) -> Batch:
    """One forward pass, padded to the longest example or to `width`."""
    width = max(width, *(len(example.tokens) for example in examples))
    tokens_BT = torch.zeros(len(examples), width, dtype=torch.long)
    asked = {question: number for number, question in enumerate(dict.fromkeys(example.question for example in examples))}
    places, labels, rows, rationale, thinking, answers = [], [], [], [], [], []
    for row, example in enumerate(examples):
        before = len(labels) - example.first
        tokens_BT[row, : len(example.tokens)] = torch.tensor(example.tokens)
        places += range(row * width + example.first - 1, row * width + len(example.tokens) - 1)
        labels += example.tokens[example.first :]
        rows += [row] * (len(example.tokens) - example.first)
        rationale += range(before + example.rationale[0], before + example.rationale[1])
        thinking += example.thinking
        answers.append((before + example.answer[0], before + example.answer[1]))
    return Batch(
        trajectories=tuple(example.trajectory for example in examples),
        tokens_BT=tokens_BT,
        places_N=torch.tensor(places),
        labels_N=torch.tensor(labels),
        rows_N=torch.tensor(rows),
        questions_B=torch.tensor([asked[example.question] for example in examples]),
        rationale_R=torch.tensor(rationale, dtype=torch.long),
        thinking_R=torch.tensor(thinking, dtype=torch.bool),
        answers=tuple(answers),
    )


def _range(begins: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Which tokens begin in the characters from `start` to `end`, and the one that `start` stands in."""
    return max(0, bisect_right(begins, start) - 1), bisect_left(begins, end)


def _inside(begins: Sequence[int], tokens: tuple[int, int], text: str, words: Sequence[str]) -> tuple[bool, ...]:
    """Of each token in a range, whether it holds a character of one of the words in `text`, at a word's start."""
    if not words:
        return (False,) * (tokens[1] - tokens[0])
    held = bytearray(len(text) + 1)
    for start, end in thinking_words(text, words):
        held[start:end] = b"\1" * (end - start)
    ends = [*begins[tokens[0] + 1 : tokens[1]], len(text)]
    return tuple(any(held[begin : max(end, begin + 1)]) for begin, end in zip(begins[slice(*tokens)], ends, strict=True))
