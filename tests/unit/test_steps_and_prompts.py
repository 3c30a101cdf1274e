from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents import prompts
from agents.engines.base import Completion
from agents.steps import STOPS, folded, step_of
from configs.schema import Asking, Example
from store.reasoning import response
from store.types import Question, Usage

ASKING = Asking(system="Think.", examples=(Example(question="1 + 1?", steps=("1 + 1 = 2.",), answer="2"),))
QUESTION = Question(id="q", text="What is 2 + 3?", answer="5", kind="math")


def completion(text: str, finish: str = "stop", stop: str | None = STOPS["header"][0]) -> Completion:
    return Completion(text=text, finish=finish, stop=stop, usage=Usage(completion=3))  # type: ignore[arg-type]


def test_a_step_runs_from_its_header_to_the_next() -> None:
    step = step_of(completion(" Add them\n2 + 3 = 5.\n"), index=2, author="ann")
    assert step is not None
    assert (step.text, step.title, step.finish, step.index) == ("### Step 2. Add them\n2 + 3 = 5.", "Add them", "step", 2)


def test_how_a_completion_ended_is_how_its_step_ended() -> None:
    ends = {
        (finish, stop): step_of(completion("x", finish, stop), index=1, author="ann")
        for finish, stop in [("stop", STOPS["header"][0]), ("stop", STOPS["header"][1]), ("end", None), ("length", None)]
    }
    assert [step.finish if step else None for step in ends.values()] == ["step", "closed", "closed", "capped"]


@given(st.text(alphabet=" \n\t"))
def test_an_empty_step_is_no_step(blank: str) -> None:
    assert step_of(completion(blank), index=1, author="ann") is None


@given(st.text())
def test_folding_is_idempotent_and_blind_to_white_space(text: str) -> None:
    assert folded(folded(text)) == folded(text)
    assert folded(text.replace(" ", "\n\t ")) == folded(text)


def test_a_proposal_continues_after_the_prefilled_header() -> None:
    prompt = prompts.propose(QUESTION, ["### Step 1. a"], ASKING)
    assert prompt.prefix == "<think>\n### Step 1. a\n### Step 2."
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[-1].content == QUESTION.text


def test_an_example_is_written_as_a_student_learns_it() -> None:
    shown = prompts.propose(QUESTION, [], ASKING).messages[2].content
    assert shown == response("### Step 1. 1 + 1 = 2.", "The final answer is 2.")
    assert shown.count("<think>") == shown.count("</think>") == 1


def test_scoring_and_concluding_share_their_context() -> None:
    prompt = prompts.conclude(QUESTION, "### Step 1. a", ASKING)
    assert prompt.prefix == "<think>\n### Step 1. a\n</think>\n\nThe final answer is "


def test_options_are_shown_once() -> None:
    options = Question(id="q", text="Pick.", answer="A", kind="choice", choices=("red", "blue"))
    assert prompts.answer(options, None).messages[-1].content == "Pick.\n\n(A) red\n(B) blue"
    inside = Question(id="q", text="Pick: (A) red (B) blue", answer="A", kind="choice", choices=("red", "blue"))
    assert prompts.answer(inside, None).messages[-1].content == inside.text
