"""Students and teachers measured: teachers through their ledger and budget, students from an adapter or a whole model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tiny_student import make_model

from agents.errors import BudgetSpent, MissingCall
from agents.models import resolve
from configs.load import dump
from configs.schema import RunConfig
from orchestrator import commands
from orchestrator.accuracies import Accuracies, of_teacher, trained
from orchestrator.comparison import measured, rows
from orchestrator.daemon import Draining
from orchestrator.folder import Folder
from orchestrator.progress import Lines
from orchestrator.questions.gather import gather_held_out
from store.store import Store, open_store
from store.types import Attempt, content_id

T = TypeVar("T")
HELD = {"kind": "word_problems", "count": 6, "split": "held_out", "operations": [1]}
NEAR = {"kind": "scripted", "skill": 1.0}


class Told(Lines):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def configured(**keys: Any) -> RunConfig:
    values = {
        "name": "walk",
        "questions": [{"kind": "word_problems", "count": 2}],
        "engines": {"near": {**NEAR, "price": {"prompt": 1, "completion": 1}}, "far": {**NEAR, "seed": 1, "skill": 0.5}},
        "teachers": [{"name": "ann", "engine": "near"}, {"name": "bob", "engine": "far"}],
        "prover": {"engine": "near"},
        "evaluation": {"questions": HELD, "others": {"more": {**HELD, "operations": [2]}}, "samples": 2, "teachers": True},
        **keys,
    }
    return RunConfig.model_validate(values)


def life(folder: Path, config: RunConfig, work: Callable[[Store, Accuracies], Awaitable[T]], told: Told | None = None) -> T:
    """One life of a run that only measures."""

    async def live() -> T:
        async with open_store(Folder(folder).database) as store:
            assert config.evaluation
            await gather_held_out(config.evaluation, store, told or Told())
            accuracies = Accuracies(
                config=config, folder=Folder(folder), store=store, progress=told or Told(), draining=Draining()
            )
            return await work(store, accuracies)

    return asyncio.run(live())


async def of_teachers(store: Store, accuracies: Accuracies) -> dict[str, list[Attempt]]:
    await accuracies.measure_teachers()
    return {name: await store.attempts(of_teacher(name)) for name in ("ann", "bob")}


def test_teachers_answer_every_set_once_as_they_are_asked_and_it_is_paid_for(tmp_path: Path) -> None:
    config = configured(asking={"system": "Add."})
    found = life(tmp_path, config, of_teachers)
    assert {name: len(answers) for name, answers in found.items()} == {"ann": 36, "bob": 36}
    assert {each.sample for each in found["ann"]} == {0, 1, 2}

    async def again(store: Store, accuracies: Accuracies) -> tuple[dict[str, int], list[dict[str, Any]]]:
        await accuracies.measure_teachers()
        return await store.counts(), (await store.dump())["call"]

    told = Told()
    counts, calls = life(tmp_path, config, again, told)
    assert not [note for note in told.notes if note.startswith("engine")]  # nobody was opened
    assert {row["purpose"] for row in calls} == {"evaluate"}
    assert len(calls) == counts["calls.evaluate"] == 2 * 2 * 12  # greedy and sampled, of two teachers
    assert counts["spent.billionths.ann"] > 0
    assert {json.loads(row["request"])["prefix"] for row in calls} == {"<think>\n### Step 1."}


def test_teachers_who_are_one_engine_asked_alike_are_paid_for_once(tmp_path: Path) -> None:
    teachers = [{"name": "ann", "engine": "near"}, {"name": "bob", "engine": "near", "temperature": 0.1}]
    config = configured(teachers=teachers)
    found = life(tmp_path, config, of_teachers)
    assert [each.text for each in found["ann"]] == [each.text for each in found["bob"]]

    async def counts(store: Store, _: Accuracies) -> dict[str, int]:
        return await store.counts()

    assert life(tmp_path, config, counts)["calls.evaluate"] == 2 * 12


def test_teachers_are_not_asked_unless_they_are_wanted(tmp_path: Path) -> None:
    config = configured()
    assert config.evaluation
    unwanted = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"teachers": False})})
    assert life(tmp_path, unwanted, of_teachers) == {"ann": [], "bob": []}


def test_a_spent_budget_ends_the_measuring_with_what_is_left_and_more_goes_on(tmp_path: Path) -> None:
    poor = configured(budget={"tokens": 3000})
    with pytest.raises(BudgetSpent, match=r"budget: .* held-out questions are left for teacher ann: with more, the same command"):
        life(tmp_path, poor, of_teachers)

    async def look(store: Store, _: Accuracies) -> tuple[int, int, int]:
        calls, spent = (await store.dump())["call"], (await store.counts())["spent.tokens.ann"]
        return len(await store.attempts(of_teacher("ann"))), len(calls), spent

    answers, calls, spent = life(tmp_path, poor, look)
    assert 0 < answers < 36
    assert spent <= 3000
    found = life(tmp_path, configured(), of_teachers)
    assert {name: len(answers) for name, answers in found.items()} == {"ann": 36, "bob": 36}
    assert life(tmp_path, configured(), look)[1] == 48 > calls


def test_a_teacher_that_may_leave_does_when_its_budget_is_spent(tmp_path: Path) -> None:
    ann = {"name": "ann", "engine": "near", "budget": {"tokens": 1500, "when_spent": "leave"}}
    told = Told()
    found = life(tmp_path, configured(teachers=[ann, {"name": "bob", "engine": "far"}]), of_teachers, told)
    assert len(found["ann"]) < len(found["bob"]) == 36
    assert [note for note in told.notes if note.startswith("budget of ann") and "left for teacher ann" in note]


def test_a_replay_asks_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(MissingCall, match="evaluate"):
        life(tmp_path, configured(replay=True), of_teachers)


def test_a_question_that_a_teacher_cannot_answer_is_a_failure_and_counts_as_wrong(tmp_path: Path) -> None:
    engines = {"near": NEAR, "far": {**NEAR, "failure_rate": 0.5}}

    async def work(store: Store, accuracies: Accuracies) -> tuple[list[Attempt], list[Any]]:
        return (await of_teachers(store, accuracies))["bob"], await store.failures()

    answers, failures = life(tmp_path, configured(engines=engines), work)
    assert {failure.where for failure in failures} == {"evaluate teacher:bob"}
    failed = {failure.subject for failure in failures}
    assert 0 < len(failed) < 12
    assert len(answers) == 36
    assert {each.question for each in answers if not each.text} == failed
    assert not [each for each in answers if each.question in failed and each.correct]


# peft reads an attribute that transformers has renamed
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_students_are_measured_from_an_adapter_or_a_whole_model(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    run = tmp_path / "run"
    students = [{"name": name, "model": str(base)} for name in ("whole", "adapted", "idle")]
    evaluation = {"questions": {**HELD, "count": 2}, "samples": 1, "max_tokens": 4}
    evaluation |= {"engine": {"kind": "transformers", "model": "unused", "device": "cpu", "dtype": "float32"}}
    config = configured(students=students, evaluation=evaluation)
    make_model(Folder(run).student("whole") / "final")
    make_adapter(base, Folder(run).student("adapted") / "final")

    async def work(store: Store, accuracies: Accuracies) -> Any:
        await accuracies.measure_before()
        await accuracies.measure_after()
        texts = {
            name: [each.text for each in await store.attempts(name) if each.sample == 0]
            for student in ("whole", "adapted", "idle")
            for name in (f"{student}@before", f"{student}@after")
        }
        return texts, rows(config, [await measured(config, store)])

    texts, found = life(run, config, work)
    assert texts["whole@before"] == texts["adapted@before"] == texts["idle@before"] == texts["whole@after"] != []
    assert texts["idle@after"] == []
    assert texts["adapted@after"] != texts["adapted@before"]
    greedy = {row.model: row for row in found if row.answers == "greedy"}
    assert list(greedy) == ["whole", "adapted", "idle"]
    assert greedy["idle"].after is None
    assert greedy["whole"].difference
    assert greedy["whole"].difference.mean == 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_any_model_is_measured_as_any_student_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = make_model(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter")
    students = [{"name": name, "model": model} for name, model in (("amy", "nowhere/to-be-found"), ("joe", str(base)))]
    more = {"more": {**HELD, "count": 2, "operations": [2]}}
    config = configured(students=students, evaluation={"questions": {**HELD, "count": 2}, "others": more, "max_tokens": 4})

    def told(**given: str | None) -> dict[str, Any]:
        chosen: dict[str, Any] = {"student": None, "model": None, "adapter": None, **given}
        assert commands.evaluate(config, **chosen, as_json=True) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    joe = told(student="joe")
    assert (joe["student"], joe["model"], joe["adapter"]) == ("joe", str(base), None)
    assert [(row["set"], row["answers"], row["accuracy"]["items"]) for row in joe["accuracy"]] == [
        (held, kind, 2) for held in ("held_out", "more") for kind in ("greedy", "sampled")
    ]
    amy = told(model=str(base), adapter=str(tmp_path / "adapter"))
    assert (amy["student"], amy["model"]) == ("amy", str(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def make_adapter(base: Path, folder: Path) -> None:
    """An adapter that changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    chosen = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), chosen)
    model.save_pretrained(str(folder))


def test_what_is_opened_of_a_student_that_has_learnt(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole")
    assert trained(whole, "base") == (str(whole), None)
    assert resolve(trained(whole, "base")[0]).path == whole
    adapter = tmp_path / "final"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert trained(adapter, "base") == ("base", adapter)


def test_several_runs_are_one_table_over_the_questions_that_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds; before nothing is right, after all is in the one and half in the other."""
    students = [{"name": "amy", "model": "tiny"}]
    for seed in (1, 2):
        config = configured(students=students, seed=seed)
        folder = Folder(tmp_path / str(seed))
        folder.root.mkdir()
        folder.config.write_text(dump(config), encoding="utf-8")

        async def work(store: Store, _: Accuracies, seed: int = seed) -> None:
            for place, question in enumerate(await store.held_out()):
                await store.record_attempts([_attempt("amy@before", question, False)])
                await store.record_attempts([_attempt("amy@after", question, seed == 1 or place % 2 == 0)])

        life(folder.root, config, work)
    dirs = [str(tmp_path / seed) for seed in ("1", "2")]
    assert commands.compare(dirs, as_json=True) == 0
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])
    assert told["runs"] == dirs
    (near, more) = told["accuracy"]
    assert [(row["model"], row["set"], row["answers"]) for row in told["accuracy"]] == [
        ("amy", "held_out", "greedy"),
        ("amy", "more", "greedy"),
    ]
    for row in (near, more):
        assert (row["before"]["mean"], row["after"]["mean"], row["difference"]["mean"]) == (0.0, 0.75, 0.75)
        assert (row["difference"]["runs"], row["difference"]["items"]) == (2, 6)
        assert row["difference"]["low"] < 0.5 < row["difference"]["high"] == 1.0
    assert "runs" in out


def _attempt(model: str, question: str, correct: bool) -> Attempt:
    from store.types import Usage

    key = content_id(model, question)
    return Attempt(id=key, model=model, question=question, sample=0, text="", answer=None, correct=correct, usage=Usage())
