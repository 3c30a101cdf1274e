"""Exports of a store with one of everything: what stands beside the text, what is hostile in it, and what balances."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import judged_run
import pytest
from judged_run import HOSTILE, OF_GOLD, OF_OPEN

from configs.schema import RunConfig
from orchestrator.exports import pages
from orchestrator.exports.columns import FORMATS, MESSAGES, PAIRS, PREFERENCES, Format
from orchestrator.exports.dataset import PARTS
from orchestrator.exports.export import export
from store.store import Judged, Store, StoreError, open_store
from store.types import Outcome, QuestionState, Verdict

pyarrow_parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'peripatos[data]'")

EVERY = {each.id for each in (*OF_GOLD, *OF_OPEN)}
CONFIG = RunConfig.model_validate(
    {
        "name": "run",
        "questions": [{"kind": "file", "path": HOSTILE, "licence": HOSTILE}, {"kind": "word_problems", "count": 1}],
        "engines": {
            "far": {"kind": "litellm", "model": HOSTILE},
            "near": {"kind": "transformers", "model": "/home/ann/models/m"},
        },
        "teachers": [{"name": "ann", "engine": "far", "licence": f"{HOSTILE} half \ud800"}, {"name": "bob", "engine": "near"}],
        "prover": {"engine": "near"},
        "students": [{"name": "s", "model": "m", "system": HOSTILE}],
    }
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.db"
    asyncio.run(judged_run.make(path))
    return path


def exported(database: Path, path: Path, form: Format, *, best_only: bool = False) -> str:
    async def work() -> str:
        async with open_store(database, create=False, read_only=True) as store:
            return await export(store, CONFIG, form, path, best_only=best_only)

    return asyncio.run(work())


def rows(database: Path, folder: Path, form: Format, **options: Any) -> list[dict[str, Any]]:
    path = folder / f"{form}.jsonl"
    told = exported(database, path, form, **options)
    lines = path.read_text(encoding="utf-8").splitlines()  # by every end of a line that Python knows
    assert told.split()[0] == str(len(lines))
    assert not {*"\x00\x1b\x7f\x9b\u2028"} & set("".join(lines))
    return [json.loads(line) for line in lines]


def test_every_trajectory_is_told_once_with_its_verdict(database: Path, tmp_path: Path) -> None:
    told = {row["id"]: row for row in rows(database, tmp_path, "trajectories")}
    assert told.keys() == EVERY
    assert {id: row["verdict"] for id, row in told.items()} == {
        each.id: outcome.value for each, outcome in (OF_GOLD | OF_OPEN).items()
    }
    assert all(list(row) == list(MESSAGES) for row in told.values())
    for each in (*OF_GOLD, *OF_OPEN):
        assert told[each.id]["messages"][-1] == {
            "role": "assistant",
            "content": f"<think>\n{each.text}\n</think>\n\n{each.conclusion}",
        }
        assert told[each.id]["reason"] == HOSTILE


def test_what_is_known_of_a_trajectory_stands_beside_its_text(database: Path, tmp_path: Path) -> None:
    searched, sampled = rows(database, tmp_path, "messages")
    assert [message["role"] for message in searched["messages"]] == ["system", "user", "assistant"]
    assert searched["messages"][0]["content"] == HOSTILE
    assert searched["messages"][1]["content"] == "Two and two.\n\nHow many?"
    assert {key: value for key, value in searched.items() if key != "messages"} == {
        "id": "a1",
        "question": "q0",
        "source": "a.jsonl",
        "kind": "math",
        "gold": "4",
        "answer": "4",
        "where": "statement",
        "target": "gold",
        "target_answer": "4",
        "target_support": None,
        "verdict": "accepted",
        "reason": HOSTILE,
        "origin": "search",
        "style": None,
        "best": True,
        "score": 0.75,
        "score_target": "gold",
        "teachers": ["ann"],
        "steps": [
            {"text": "Two.", "authors": ["ann"], "score": 0.5},
            {"text": "Four.", "authors": ["ann", "bob"], "score": 0.75},
        ],
        "consensus": None,
        "rulings": [],
        "tokens": {"prompt": 7, "cached": 1, "completion": 5},
        "cost": 0.25,
    }
    assert (sampled["target"], sampled["target_answer"], sampled["target_support"]) == ("consensus", "7", 0.75)
    assert sampled["consensus"] == {"support": 0.75, "centrality": 1.25, "nearest": 0.5, "misleading": False}
    assert sampled["steps"] == [{"text": f"b1: {HOSTILE}", "authors": ["bob"], "score": 0.5}]
    assert (sampled["gold"], sampled["style"], sampled["cost"]) == (None, "backward", None)
    assert rows(database, tmp_path, "messages", best_only=True) == [searched]


def test_the_other_forms_say_the_same(database: Path, tmp_path: Path) -> None:
    messages = rows(database, tmp_path, "messages")
    for sharegpt, alpaca, row in zip(
        rows(database, tmp_path, "sharegpt"), rows(database, tmp_path, "alpaca"), messages, strict=True
    ):
        system, user, assistant = (message["content"] for message in row.pop("messages"))
        assert sharegpt.pop("conversations") == [
            {"from": "system", "value": system},
            {"from": "human", "value": user},
            {"from": "gpt", "value": assistant},
        ]
        context, asked = alpaca.pop("input"), alpaca.pop("instruction")
        assert (alpaca.pop("system"), alpaca.pop("output")) == (system, assistant)
        assert "\n\n".join(filter(None, (context, asked))) == user
        assert bool(context) == (row["question"] == "q0")
        assert sharegpt == alpaca == row


def test_pairs_are_of_an_accepted_and_a_worse_one_of_the_same_question(database: Path, tmp_path: Path) -> None:
    unsound, wrong = rows(database, tmp_path, "pairs")
    assert list(unsound) == list(PAIRS)
    assert (unsound["chosen_id"], unsound["rejected_id"], unsound["rejected_verdict"]) == ("a1", "a3", "unsound")
    assert (wrong["chosen_id"], wrong["rejected_id"], wrong["rejected_verdict"]) == ("a1", "a2", "wrong_answer")
    assert (unsound["margin"], wrong["margin"]) == (0.25, None)
    assert unsound["rejected_rulings"] == [
        {"judge": "al", "ruled": "unreadable", "reason": ""},
        {"judge": "jo", "ruled": "invalid", "reason": HOSTILE},
    ]
    assert [turn["role"] for turn in unsound["prompt"]] == ["system", "user"]
    assert unsound["chosen"] != unsound["rejected"]


def test_step_preferences_and_nodes(database: Path, tmp_path: Path) -> None:
    (row,) = rows(database, tmp_path, "preferences")
    assert list(row) == list(PREFERENCES)
    assert (row["shared"], row["margin"], row["target"]) == ("Two.", 0.5, "gold")
    assert {row["id"] for row in rows(database, tmp_path, "nodes")} == {"n1", "n2", "n3"}


def test_a_parquet_file_holds_what_the_lines_hold(database: Path, tmp_path: Path) -> None:
    assert exported(database, tmp_path / "m.parquet", "parquet") == "2 trajectories"
    read = pyarrow_parquet.read_table(tmp_path / "m.parquet").to_pylist()
    assert read == rows(database, tmp_path, "messages")


def test_a_megabyte_in_one_text(tmp_path: Path) -> None:
    database, text = tmp_path / "run.db", "\U0001f9ee\x00é" * 350_000
    judged = judged_run.trajectory("a1", "q0", 0.5, text=text)

    async def work() -> None:
        async with open_store(database) as store:
            await store.add_questions([judged_run.GOLD], split="train")
            verdict = Verdict(trajectory="a1", outcome=Outcome.ACCEPTED, reason="")
            await store.settle_question("q0", QuestionState.SOLVED, "", [judged], [verdict], [])

    asyncio.run(work())
    exported(database, tmp_path / "m.parquet", "parquet")
    (row,) = rows(database, tmp_path, "messages")
    assert row["steps"][0]["text"] == text
    assert pyarrow_parquet.read_table(tmp_path / "m.parquet").to_pylist() == [row]


def test_a_data_set_is_loaded_with_its_types_and_its_card_balances(database: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'peripatos[data]'")
    from huggingface_hub import DatasetCard

    folder = tmp_path / "data set"
    assert exported(database, folder, "dataset") == "2 trajectories, 1 preferences, 2 pairs"
    forms: dict[str, Format] = {"sft": "messages", "preferences": "preferences", "pairs": "pairs"}
    for name, form in forms.items():
        loaded = datasets.load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert list(loaded) == rows(database, tmp_path, form)
        assert loaded.column_names == list(PARTS[name])
    card = DatasetCard.load(folder / "README.md")
    assert card.data.to_dict()["license"] == "other"
    assert [each["config_name"] for each in card.data.to_dict()["configs"]] == ["sft", "preferences", "pairs"]
    cells = [line[2:-2].split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    counted = {row[0]: int(row[1]) for row in cells if len(row) == 2 and row[1].isdecimal()}
    outcomes = Counter(outcome.value.replace("_", " ") for outcome in (OF_GOLD | OF_OPEN).values())
    assert {name.removeprefix("trajectories "): n for name, n in counted.items() if name.startswith("trajectories ")} == outcomes
    assert counted["trajectories"] == len(EVERY)
    assert counted["rows of sft"] == outcomes["accepted"] == 2
    assert (counted["questions"], counted["questions solved"], counted["questions pending"]) == (3, 2, 1)
    assert counted["rows of sft compared with gold"] == counted["rows of sft compared with consensus"] == 1


def test_nothing_configured_means_more_than_text_in_the_card(database: Path, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    exported(database, tmp_path / "d", "dataset")
    text = (tmp_path / "d/README.md").read_text(encoding="utf-8")
    assert not {*"\x00\x1b\x9b\u2028\u202e\ud800"} & set(text)
    assert "/home/ann" not in text
    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = {inner.type for token in tokens for inner in token.children or ()}
    assert not {token.type for token in tokens} & {"html_block", "blockquote_open", "hr"}
    assert kinds <= {"text", "code_inline", "link_open", "link_close", "softbreak", "text_special"}
    cells = [token.content for token in tokens if token.type == "inline"]
    assert sum("script" in cell for cell in cells) == 4  # the source and its licence, the model and its licence


def test_a_data_set_of_nothing_is_a_card(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_store(tmp_path / "run.db") as store:
            await store.begin_run("run", "run", "")

    asyncio.run(work())
    assert exported(tmp_path / "run.db", tmp_path / "d", "dataset") == "0 trajectories, 0 preferences, 0 pairs"
    assert [path.name for path in (tmp_path / "d").rglob("*.parquet")] == []
    text = (tmp_path / "d/README.md").read_text()
    assert "It has no rows." in text
    assert "not finished" in text
    for form in FORMATS:
        assert exported(tmp_path / "run.db", tmp_path / f"out.{form}", form).startswith("0 ")


def test_pages_of_any_size_tell_the_same_in_order(database: Path) -> None:
    async def work() -> None:
        async with open_store(database, create=False, read_only=True) as store:
            every = await store.judged()
            assert [each.trajectory.id for each in every] == sorted(EVERY)
            assert [each.trajectory.id for each in await store.judged(accepted_only=True)] == ["a1", "b1"]
            for limit in range(1, 9):
                found, page = [], await store.judged(limit=limit)
                while page:
                    found += page
                    page = await store.judged(after=page[-1].cursor, limit=limit)
                assert found == every
            grouped = [[each.trajectory.id[0] for each in together] async for together in pages.by_question(store)]
            assert grouped == [["a"] * 6, ["b"] * 2]

    asyncio.run(work())


def test_an_export_that_fails_leaves_what_was_there(database: Path, tmp_path: Path) -> None:
    class Failing:
        """A store whose disk fails at the second page."""

        def __init__(self, store: Store) -> None:
            self.store = store

        async def judged(self, after: tuple[int, str], limit: int, accepted_only: bool) -> list[Judged]:
            if after != (-1, ""):
                raise StoreError("the disk fails")
            return await self.store.judged(after, limit, accepted_only)

    async def work(form: Format, path: Path) -> None:
        async with open_store(database, create=False, read_only=True) as store:
            await export(cast("Store", Failing(store)), CONFIG, form, path)

    for form in ("messages", "parquet", "dataset"):
        exported(database, tmp_path / form, form)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for form in ("messages", "parquet", "dataset"):
        for path in (tmp_path / form, tmp_path / f"new-{form}"):
            with pytest.raises(StoreError, match="the disk fails"):
                asyncio.run(work(form, path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"messages", "parquet", "dataset"}
