"""Question files as their publishers made them, large files, parquet, and what is said where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from configs.schema import File
from orchestrator.answers.answer import same_answer
from orchestrator.questions.load import LoadedQuestions, QuestionsError, load_questions

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PERIPATOS_DATA", REPOSITORY.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no question sets at {DATA}: set PERIPATOS_DATA to their folder")

SHIPPED = [
    ("gsm8k/train.jsonl", "gsm8k", "math", 7473, 0),
    ("gsm8k/test.jsonl", "gsm8k", "math", 1319, 0),
    ("svamp/test.jsonl", "svamp", "math", 1000, 0),
    ("mawps/singleop.jsonl", "mawps", "math", 531, 31),
    ("mawps/multiarith.jsonl", "mawps", "math", 580, 20),
    ("bbh/date_understanding.json", "bbh", "choice", 250, 0),
    ("strategyqa/dev.json", "strategyqa", "boolean", 229, 0),
]


def _load(path: str, form: str = "fields", base: Path = DATA) -> LoadedQuestions:
    return load_questions(File.model_validate({"kind": "file", "path": path, "format": form}), base)


@needs_data
@pytest.mark.parametrize(("path", "form", "kind", "questions", "repeated"), SHIPPED)
def test_every_row_of_the_question_sets_is_a_question_or_a_repeated_one(
    path: str, form: str, kind: str, questions: int, repeated: int
) -> None:
    loaded = _load(path, form)
    assert (len(loaded.questions), len(loaded.bad)) == (questions, repeated)
    assert all(bad.reason.startswith(f"duplicate of {path}:") for bad in loaded.bad)
    assert len({question.id for question in loaded.questions}) == questions
    for question in loaded.questions:
        assert question.kind == kind
        assert question.answer
        assert same_answer(question.answer, question.answer, question.kind, question.choices)


@needs_data
def test_answers_of_the_question_sets() -> None:
    assert all(q.answer and float(q.answer) == int(q.answer) for q in _load("gsm8k/test.jsonl", "gsm8k").questions)
    dates = _load("bbh/date_understanding.json", "bbh").questions
    assert Counter(q.answer for q in dates) == {"A": 48, "B": 50, "C": 35, "D": 43, "E": 40, "F": 34}
    assert Counter(len(q.choices) for q in dates).keys() <= {5, 6}
    assert all(choice in q.text for q in dates for choice in q.choices)
    assert Counter(q.answer for q in _load("strategyqa/dev.json", "strategyqa").questions).keys() == {"yes", "no"}


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    with (tmp_path / "many.jsonl").open("w") as file:
        file.writelines(json.dumps({"question": f"What is {n} + 1?", "answer": n + 1}) + "\n" for n in range(100_000))
    start = time.perf_counter()
    assert len(_load("many.jsonl", base=tmp_path).questions) == 100_000
    assert time.perf_counter() - start < 60  # about 3 s; quadratic: hours


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'peripatos[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"question": "a", "answer": 1.5}, {"question": None, "answer": 2.0}, {"question": "c", "answer": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    loaded = _load("q.parquet", base=tmp_path)
    assert [question.answer for question in loaded.questions] == ["1.5"]
    assert [(bad.where, bad.reason) for bad in loaded.bad] == [
        ("q.parquet: row 2", "question: not text but nothing"),
        ("q.parquet: row 3", "answer: not a number but nothing"),
    ]


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, reason in ((f"{'x' * 300}.jsonl", "File name too long"), ("~nobody-of-that-name/q.jsonl", "Could not determine")):
        with pytest.raises(QuestionsError, match=f"^{path}: cannot be read: {reason}"):
            _load(path, base=tmp_path)


CHILD = """
import sys
from pathlib import Path
from configs.schema import File
from orchestrator.questions.load import QuestionsError, load_questions
sys.modules.update(dict.fromkeys({absent!r}))
try:
    load_questions(File(kind="file", path={path!r}), Path({base!r}))
except QuestionsError as error:
    print(error)
"""


def _said_in_child(path: str, base: Path, absent: list[str]) -> str:
    """What a fresh interpreter without some packages, and without network, says about a source."""
    code = CHILD.format(path=path, base=str(base), absent=absent)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(base)}
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return child.stdout


@pytest.mark.parametrize(("path", "absent"), [("q.parquet", "pyarrow"), ("hf:openai/gsm8k", "datasets")])
def test_a_missing_extra_is_named(tmp_path: Path, path: str, absent: str) -> None:
    (tmp_path / "q.parquet").touch()
    said = _said_in_child(path, tmp_path, [absent])
    assert said.startswith(f"{path}: a ")
    assert said.endswith("needs the extra `data`: pip install 'peripatos[data]'\n")


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed: pip install 'peripatos[data]'")
    said = _said_in_child("hf:nobody/nothing:test", tmp_path, [])
    assert said.startswith("hf:nobody/nothing:test: not to be had from the hub or its cache: ")
    assert said.count("\n") == 1


def test_loading_the_modules_imports_nothing_heavy() -> None:
    code = "import orchestrator.questions.load, sys; print({'torch', 'pyarrow', 'datasets', 'math_verify'} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout == "set()\n"
