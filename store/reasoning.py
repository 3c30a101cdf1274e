"""How a reasoning is written down, for whoever makes it and whoever learns from it: one format, in one place.

    <think>
    ### Step 1. ...
    ### Step 2. ...
    </think>

    The final answer is ...

With the segmentations `line_break` and `cue` the steps have no headers: an empty line parts them, or a new line.

Invariant: exactly one `<think>` and one `</think>`. Not covered: chat templates (engines and students render their own).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from store.types import Question

Segmentation = Literal["header", "line_break", "cue"]

THINK_OPEN = "<think>\n"
THINK_CLOSE = "\n</think>\n\n"
_NO_WIDTH = "\u2060"


def inert(text: str, marks: Sequence[str]) -> str:
    """`text` in which none of a model's own `marks` (such as `<|im_end|>`) can be read as one: it is data, and ends no turn.

    A character of no width is put behind the first of a mark; the marks of reasoning are ours, and stay.
    """
    for mark in marks:
        if len(mark) > 1 and mark in text and mark not in (THINK_OPEN.strip(), THINK_CLOSE.strip()):
            text = re.sub(f"{re.escape(mark[0])}(?={re.escape(mark[1:])})", rf"\g<0>{_NO_WIDTH}", text)  # two may overlap
    return text


def user_text(question: Question) -> str:
    """The user's turn: context first, then the question, then its options, unless the text letters them itself."""
    parts = [question.context] if question.context else []
    parts.append(question.text)
    if question.choices and "(A)" not in question.text:
        parts.append("\n".join(f"({chr(ord('A') + index)}) {choice}" for index, choice in enumerate(question.choices)))
    return "\n\n".join(parts)


def header(index: int) -> str:
    """What opens step `index`, counted from 1."""
    return f"### Step {index}."


def joined(steps: Sequence[str], segmentation: Segmentation = "header") -> str:
    """The text of a reasoning, from its steps."""
    return ("\n\n" if segmentation == "line_break" else "\n").join(steps)


def open_reasoning(steps: Sequence[str], segmentation: Segmentation = "header") -> str:
    """An unfinished assistant turn that waits for the text of the next step (CoRD: the header is prefilled)."""
    return THINK_OPEN + joined([*steps, header(len(steps) + 1) if segmentation == "header" else ""], segmentation)


def closed_reasoning(text: str, answer_prefix: str = "") -> str:
    """An assistant turn whose reasoning is complete, up to where the answer begins."""
    return f"{THINK_OPEN}{text}{THINK_CLOSE}{answer_prefix}"


def response(text: str, conclusion: str) -> str:
    """A whole assistant turn."""
    return closed_reasoning(text) + conclusion
