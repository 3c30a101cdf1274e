"""What students of the benchmarks learn: word problems with several trajectories each, made from a seed, or GSM8K's solutions.

Invariant: the same seed makes the same texts on every machine. With SmolLM2's tokenizer an example has 90 to 290 tokens, its
prompt with the template's own system turn among them. Not covered: whether anything can be learnt from them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from configs import schema
from store.types import Lesson, Question, Trajectory, Usage
from trainers.data import Example, Writing
from trainers.student import Chat

_PEOPLE = ("Ada", "Bruno", "Carmen", "Dilip", "Edith", "Farid", "Greta", "Hugo")
_THINGS = ("pears", "marbles", "stamps", "buttons", "shells", "candles", "pencils", "coins")
_HAPPENINGS = {
    "+": ("{who} finds {n} more {things}", "a friend brings {who} {n} {things}"),
    "-": ("{who} gives {n} of the {things} away", "{n} of the {things} are lost on the way home"),
    "*": ("{who} gets {n} times as many {things} as there are by now",),
}
_STYLES = (
    ("{before} {op} {n} = {after}.",),
    ("We have {before} {things}. {what}, so we compute {before} {op} {n} = {after}.",),
    (
        "First, look at what is known: there are {before} {things} by now, and {what}.",
        "Therefore the new number of {things} follows from {before} {op} {n}, which is {after}.",
    ),
    ("Let x be the {things} before. x = {before}.", "Because {what}, x becomes x {op} {n} = {after}. So x = {after}."),
    ("Wait, what do we count? The {things} of {who}.", "So far {before}; {what}; hence {before} {op} {n} = {after}."),
    ("The number was {before}.", "Then {what}.", "But {before} {op} {n} = {after}, thus it is {after} now."),
)


def word_lessons(num_questions: int, num_trajectories: int, seed: int = 0) -> list[Lesson]:
    """Questions of one to three operations, each with trajectories of different styles; `target` is the answer."""
    chance = random.Random(seed)
    return [lesson for number in range(num_questions) for lesson in _lessons(chance, f"q{number}", num_trajectories)]


def gsm8k_lessons(path: Path, count: int) -> list[Lesson]:
    """The first solutions of a file in GSM8K's own format, without its calculator's marks."""
    found = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(islice(lines, count)):
            row = json.loads(line)
            reasoning, _, answer = row["answer"].partition("####")
            plain = "".join(part.rpartition(">>")[2] for part in reasoning.split("<<"))
            found.append(_lesson(f"g{number}", 0, row["question"], plain.strip(), answer.strip()))
    return found


def examples_of(lessons: Sequence[Lesson], chat: Chat) -> dict[str, Example]:
    """In a student's tokens, by trajectory, with the conclusion that compatibility needs."""
    writing = Writing(template=chat, common="The final answer is ", thinking_words=schema.Compatibility().thinking_words)
    return {lesson.trajectory.id: writing.example(lesson) for lesson in lessons}


def _lessons(chance: random.Random, name: str, num_trajectories: int) -> list[Lesson]:
    who, things = chance.choice(_PEOPLE), chance.choice(_THINGS)
    value = start = chance.randint(20, 90)
    told, steps = [f"{who} has {start} {things}."], []
    for _ in range(chance.randint(1, 3)):
        op = chance.choice("+-*" if value < 200 else "+-")
        n = chance.randint(2, 4) if op == "*" else chance.randint(2, min(60, value - 1))
        what = chance.choice(_HAPPENINGS[op]).format(who=who, things=things, n=n)
        after = {"+": value + n, "-": value - n, "*": value * n}[op]
        steps.append({"before": value, "op": op, "n": n, "after": after, "what": what, "who": who, "things": things})
        told.append(f"Then {what}.")
        value = after
    asked = " ".join([*told, f"How many {things} are there now?"])
    styles = chance.sample(_STYLES, num_trajectories)
    return [_lesson(name, number, asked, _written(style, steps), str(value)) for number, style in enumerate(styles)]


def _written(style: Sequence[str], steps: Sequence[dict[str, Any]]) -> str:
    texts = [" ".join(sentence.format(**step) for sentence in style) for step in steps]
    return "\n".join(f"### Step {number}. {text}" for number, text in enumerate(texts, 1))


def _lesson(name: str, number: int, asked: str, text: str, answer: str) -> Lesson:
    question = Question(id=name, text=asked, answer=answer, kind="math")
    trajectory = Trajectory(
        id=f"{name}t{number}",
        question=name,
        nodes=(),
        teachers=("teacher",),
        text=text,
        conclusion=f"The final answer is {answer}",
        answer=answer,
        origin="search",
        score=None,
        best=number == 0,
        usage=Usage(),
    )
    return Lesson(question=question, trajectory=trajectory, target=answer)
