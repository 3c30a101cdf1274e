"""The sets of held-out questions in the store: what is left out of them, and that one question is in one set."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from configs.load import load
from configs.schema import Evaluation, File
from orchestrator.accuracies import held_out
from orchestrator.progress import Lines
from orchestrator.questions.gather import gather_held_out
from orchestrator.questions.load import load_questions
from orchestrator.questions.word_problems import word_problems
from store.store import Store, open_store
from store.types import Question


class Told(Lines):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def source(folder: Path, name: str, questions: list[Question], **keys: Any) -> dict[str, Any]:
    """A file of these questions."""
    lines = [{"question": each.text, "answer": each.answer} for each in questions]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return {"kind": "file", "path": str(path), **keys}


def texts(questions: list[Question]) -> list[str]:
    return [question.text for question in questions]


def test_each_question_is_in_one_set_and_what_is_learnt_is_in_none(tmp_path: Path) -> None:
    drawn = load("quickstart", ["questions.0.count=10"]).questions[0]
    learnt, last, *fresh = word_problems(drawn)  # type: ignore[arg-type]
    near, far, farther = fresh[:3], fresh[3:5], fresh[5:8]
    evaluation = Evaluation.model_validate(
        {
            "questions": source(tmp_path, "near", [*near, learnt]),
            "others": {
                "far": source(tmp_path, "far", [learnt, *far, near[0]]),
                "farther": source(tmp_path, "farther", [*farther, far[1], near[2]]),
                "unmarked": source(tmp_path, "unmarked", [last], fields={"answer": None}),
            },
        }
    )
    told = Told()

    async def work(store: Store) -> tuple[list[str], dict[str, int]]:
        await gather_held_out(evaluation, store, told)
        return texts(await held_out(evaluation, store)), await store.counts()

    async def lives() -> None:
        async with open_store(tmp_path / "peripatos.db") as store:
            to_learn = File.model_validate(source(tmp_path, "learnt", [learnt]))
            await store.add_questions(load_questions(to_learn, tmp_path).questions, split="train")
            first = await work(store)
            assert await work(store) == first  # a resumed run measures the same ones
            found, counts = first
            assert found == texts([*near, *far, *farther])
            assert {name: counts[name] for name in counts if name.startswith("held_out")} == {
                "held_out.questions": 3,
                "held_out:far.questions": 2,
                "held_out:farther.questions": 3,
            }
            splits = await store.held_out()
            assert list(splits.values()) == ["held_out"] * 3 + ["held_out:far"] * 2 + ["held_out:farther"] * 3

    asyncio.run(lives())
    life = [
        "left out 1 questions of held_out: they are among the questions to learn from",
        "left out 1 questions of far: they are among the questions to learn from",
        "left out 1 questions of far: they are in another set",
        "left out 2 questions of farther: they are in another set",
        "left out 1 questions of unmarked: they have no gold answer",
    ]
    assert told.notes == life * 2
