"""Step segmentation: from what a teacher wrote to one step. Pure.

Invariant: a step is one header's text, never empty, and its header carries its place in the trajectory.
Not covered: asking for the text (`teacher.py`).
"""

from __future__ import annotations

from agents.engines.base import Completion
from store.reasoning import header
from store.types import Finish, Step

STOPS = ("\n### Step", "</think>")
"""Where a step ends: the next header, or the end of the reasoning."""


def step_of(completion: Completion, *, index: int, author: str) -> Step | None:
    """The step that `completion` wrote after the prefilled header number `index`; None when it is empty.

    Ending the turn inside the reasoning counts as closing it (a departure: the paper knows only `</think>`).
    """
    body = completion.text.strip()
    if not body:
        return None
    return Step(
        index=index,
        title=body.partition("\n")[0].strip(),
        text=f"{header(index)} {body}",
        author=author,
        finish=_finish(completion),
    )


def _finish(completion: Completion) -> Finish:
    if completion.finish == "length":
        return "capped"
    return "step" if completion.stop == STOPS[0] else "closed"


def folded(text: str) -> str:
    """`text` with runs of white space folded into one blank: steps that are equal in this form are one step."""
    return " ".join(text.split())
