"""Step segmentation: from what a teacher wrote to one step. Pure.

Invariant: a step is never empty, and its header, if it has one, carries its place in the trajectory.
Not covered: asking for the text (`teacher.py`).
"""

from __future__ import annotations

from agents.engines.base import Completion
from store.reasoning import Segmentation, header
from store.types import Finish, Step

END = "</think>"
"""The end of the reasoning."""
CUES = (
    *("Wait", "Hold on", "Let me check", "Let me verify", "Let me double-check"),
    *("Alternatively", "Another way", "Another approach"),
    *("Actually", "No,", "But ", "Hmm"),
)
"""What a self-check, an alternative, a correction begins with."""
STOPS: dict[Segmentation, tuple[str, ...]] = {
    "header": ("\n### Step", END),
    "line_break": ("\n\n", END),
    "cue": (*(f"\n{cue}" for cue in CUES), END),
}
"""Where a step ends: the next header, an empty line, a line that begins with a cue; or the end of the reasoning."""


def step_of(completion: Completion, *, index: int, author: str, segmentation: Segmentation = "header") -> Step | None:
    """The step number `index` that `completion` wrote, after its prefilled header if it has one; None when it is empty.

    Ending the turn inside the reasoning counts as closing it (a departure: the paper knows only `</think>`).
    """
    body = completion.text.strip()
    if not body:
        return None
    return Step(
        index=index,
        title=body.partition("\n")[0].strip(),
        text=f"{header(index)} {body}" if segmentation == "header" else body,
        author=author,
        finish=_finish(completion),
    )


def _finish(completion: Completion) -> Finish:
    if completion.finish == "length":
        return "capped"
    return "step" if completion.stop not in (None, END) else "closed"


def folded(text: str) -> str:
    """`text` with runs of white space folded into one blank: steps that are equal in this form are one step."""
    return " ".join(text.split())
