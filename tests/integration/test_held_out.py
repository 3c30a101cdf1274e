from __future__ import annotations

import asyncio
from pathlib import Path

from configs.load import load
from orchestrator.daemon import Draining
from orchestrator.folder import Folder
from orchestrator.progress import Lines
from orchestrator.questions.word_problems import word_problems
from orchestrator.students import Students
from store.store import open_store


class Told(Lines):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_held_out_question_that_is_also_learnt_from_is_left_out_and_told(tmp_path: Path) -> None:
    config = load("quickstart", ["questions.0.count=4", f"run_dir={tmp_path}"])
    learnt = word_problems(config.questions[0])  # type: ignore[arg-type]
    fresh = word_problems(config.questions[0].model_copy(update={"split": "held_out"}))  # type: ignore[arg-type]
    told = Told()

    async def unseen() -> list[str]:
        async with open_store(tmp_path / "peripatos.db") as store:
            await store.add_questions(learnt, split="train")
            students = Students(config=config, folder=Folder(tmp_path), store=store, progress=told, draining=Draining())
            first = await students._unseen([*fresh, learnt[0]])
            assert await students._unseen([*fresh, learnt[0]]) == first  # a resumed run measures the same ones
            return [question.id for question in first]

    assert asyncio.run(unseen()) == [question.id for question in fresh]
    assert told.notes == ["left out 1 held-out questions: they are among the questions to learn from"] * 2
