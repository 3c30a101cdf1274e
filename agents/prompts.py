"""Every prompt, as plain functions from nouns to a Prompt. Pure.

Invariant: the text of the question, and nothing else, is the user's turn; what a model wrote is only ever a prefix.
Not covered: chat templates (engines render their own).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agents.engines.base import Message, Prompt
from configs.schema import Asking, Example
from store.reasoning import THINK_OPEN, closed_reasoning, header, open_reasoning, response, user_text
from store.types import Question


def propose(question: Question, steps: Sequence[str], asking: Asking) -> Prompt:
    """Ask for step number len(steps) + 1."""
    return Prompt(messages=_messages(question, asking), prefix=open_reasoning(steps))


def conclude(question: Question, text: str, asking: Asking) -> Prompt:
    """Ask for the final answer to a closed reasoning; also the context in which an answer is scored."""
    return Prompt(messages=_messages(question, asking), prefix=closed_reasoning(text, asking.answer_prefix))


def answer(question: Question, system: str | None) -> Prompt:
    """Ask a student for a whole answer, reasoning included, as it was trained to give."""
    return Prompt(messages=_messages(question, Asking(system=system)), prefix=THINK_OPEN)


def _messages(question: Question, asking: Asking) -> tuple[Message, ...]:
    turns = [Message(role="system", content=asking.system)] if asking.system else []
    for example in asking.examples:
        turns += _turns(example, asking.answer_prefix)
    return (*turns, Message(role="user", content=user_text(question)))


def _turns(example: Example, answer_prefix: str) -> Iterator[Message]:
    steps = "\n".join(f"{header(index)} {text}" for index, text in enumerate(example.steps, start=1))
    yield Message(role="user", content=example.question)
    yield Message(role="assistant", content=response(steps, f"{answer_prefix}{example.answer}."))
