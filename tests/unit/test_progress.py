"""What a person is shown: text of models is text there, too."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.progress import Lines, PanelView, visible
from store.types import Advance, Node, NodeState, Question, QuestionState, Score, Step, Usage

HOSTILE = "14\x1b[2J\x1b]0;owned\x07\n  solved   00000000 all of them\r\u202e\x00 [bold]markup[/bold]"
QUESTION = Question(id="q" * 32, text="?", answer="1", kind="math")


def is_one_plain_line(text: str) -> bool:
    return all(each.isprintable() for each in text)


def test_a_line_of_what_a_model_wrote_is_one_line() -> None:
    assert is_one_plain_line(visible(HOSTILE))
    assert visible("a\n\tb  c") == "a b c"
    assert visible("\u4f60\u597d \U0001f600 \u00e9") == "\u4f60\u597d \U0001f600 \u00e9"


def test_a_reason_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().settled(QUESTION, QuestionState.UNSOLVED, f"{HOSTILE} is not 1")
    (line,) = capsys.readouterr().err.splitlines()
    assert is_one_plain_line(line)


def test_neither_does_a_step_in_the_panel() -> None:
    step = Step(index=1, title="", text=HOSTILE, author="ann", finish="step")
    node = Node(
        id="n",
        question="q",
        parent=None,
        depth=1,
        rank=0,
        step=step,
        authors=("ann",),
        usage=Usage(),
        score=Score(value=0.5, logprobs=(), prover="p"),
        state=NodeState.OPEN,
    )
    out = io.StringIO()
    panel = PanelView(Console(file=out, width=200, force_terminal=False))
    panel.stepped(QUESTION, Advance(question="q", kept=(node,)))
    panel.settled(QUESTION, QuestionState.UNSOLVED, HOSTILE)
    Console(file=out, width=200, force_terminal=False).print(panel.__rich__())
    assert "[bold]markup" in out.getvalue()
    assert all(is_one_plain_line(line) for line in out.getvalue().splitlines())
