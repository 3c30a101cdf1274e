"""Every prompt, as plain functions from nouns to a Prompt. Pure.

Invariant: the text of the question, and nothing else, is the user's turn; what a model wrote is only ever a prefix, but for
`integrate`, whose turn quotes it.
Not covered: chat templates (engines render their own).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agents.engines.base import Message, Prompt
from configs.schema import Asking, Example
from store.reasoning import (
    THINK_OPEN,
    Segmentation,
    closed_reasoning,
    header,
    joined,
    open_reasoning,
    response,
    user_text,
)
from store.types import Question

ATTEMPT = "Attempt"
INTEGRATE = (
    "Write one reasoning that solves the question: take what is sound in these attempts, correct what is wrong, and leave out "
    "what does not help."
)


def propose(question: Question, steps: Sequence[str], asking: Asking, segmentation: Segmentation = "header") -> Prompt:
    """Ask for step number len(steps) + 1, and what comes after it."""
    return Prompt(messages=_messages(question, asking, segmentation), prefix=open_reasoning(steps, segmentation))


def integrate(question: Question, traces: Sequence[str], asking: Asking, segmentation: Segmentation = "header") -> Prompt:
    """Ask for one reasoning from several complete ones."""
    attempts = [f"{ATTEMPT} {number}:\n{trace}" for number, trace in enumerate(traces, start=1)]
    *examples, asked = _messages(question, asking, segmentation)
    content = "\n\n".join([asked.content, *attempts, INTEGRATE])
    return Prompt(messages=(*examples, Message(role="user", content=content)), prefix=open_reasoning((), segmentation))


def conclude(question: Question, text: str, asking: Asking, segmentation: Segmentation = "header") -> Prompt:
    """Ask for the final answer to a closed reasoning; also the context in which an answer is scored."""
    messages = _messages(question, asking, segmentation)
    return Prompt(messages=messages, prefix=closed_reasoning(text, asking.answer_prefix))


def answer(question: Question, system: str | None) -> Prompt:
    """Ask a student for a whole answer, reasoning included, as it was trained to give."""
    return Prompt(messages=_messages(question, Asking(system=system)), prefix=THINK_OPEN)


def _messages(question: Question, asking: Asking, segmentation: Segmentation = "header") -> tuple[Message, ...]:
    turns = [Message(role="system", content=asking.system)] if asking.system else []
    for example in asking.examples:
        turns += _turns(example, asking.answer_prefix, segmentation)
    return (*turns, Message(role="user", content=user_text(question)))


def _turns(example: Example, answer_prefix: str, segmentation: Segmentation) -> Iterator[Message]:
    headed = [f"{header(index)} {text}" for index, text in enumerate(example.steps, start=1)]
    text = joined(headed if segmentation == "header" else example.steps, segmentation)
    yield Message(role="user", content=example.question)
    yield Message(role="assistant", content=response(text, f"{answer_prefix}{example.answer}."))
