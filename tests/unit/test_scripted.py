from __future__ import annotations

import asyncio

from agents import prompts
from agents.engines.base import Completion
from agents.engines.scripted import ScriptedEngine
from agents.steps import STOPS
from configs.engines import ScriptedEngine as Config
from configs.schema import Asking
from store.types import Question

QUESTION = Question(id="q", text="Ann has 3 pens, then 4, then 5. How many?", answer="12", kind="math")


def propose(engine: ScriptedEngine, steps: list[str], seed: int = 0, n: int = 1) -> list[Completion]:
    prompt = prompts.propose(QUESTION, steps, Asking())
    return asyncio.run(engine.generate(prompt, n=n, max_tokens=50, stop=STOPS["header"], seed=seed))


def score(engine: ScriptedEngine, text: str, answer: str = "12") -> float:
    scored = asyncio.run(engine.answer_logprobs(prompts.conclude(QUESTION, text, Asking()), answer))
    return sum(scored.values) / len(scored.values)


def test_a_skilled_engine_walks_to_the_right_answer() -> None:
    engine = ScriptedEngine(Config(kind="scripted", skill=1.0))
    steps: list[str] = []
    for index in range(1, 4):
        (completion,) = propose(engine, steps)
        steps.append(f"### Step {index}. {completion.text.strip()}")
    assert [step.rpartition(" ")[2] for step in steps] == ["3.", "7.", "12."]
    assert completion.stop == "</think>"
    concluded = prompts.conclude(QUESTION, "\n".join(steps), Asking())
    assert asyncio.run(engine.generate(concluded, max_tokens=9))[0].text == "12."


def test_a_slip_makes_the_answer_unlikely_and_progress_makes_it_likely() -> None:
    engine = ScriptedEngine(Config(kind="scripted"))
    early, late = "### Step 1. Add 3: the total is 3.", "### Step 2. Add 4: the total is 7."
    slipped = "### Step 2. Add 4: the total is 8."
    assert score(engine, f"{early}\n{late}") > score(engine, early) > score(engine, f"{early}\n{slipped}")
    assert score(engine, early, answer="13") < score(engine, early)


def test_replies_depend_on_the_request_alone() -> None:
    engine, again = (ScriptedEngine(Config(kind="scripted", skill=0.3)) for _ in range(2))
    assert propose(engine, [], seed=7, n=5) == propose(again, [], seed=7, n=5)
    assert len({completion.text for seed in range(20) for completion in propose(engine, [], seed=seed)}) > 1


def test_a_cap_cuts_and_says_so() -> None:
    prompt = prompts.propose(QUESTION, [], Asking())
    (completion,) = asyncio.run(ScriptedEngine(Config(kind="scripted")).generate(prompt, max_tokens=2, stop=STOPS["header"]))
    assert (completion.finish, completion.usage.completion) == ("length", 2)
