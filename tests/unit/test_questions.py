"""Questions from files that a test writes: every format, every kind of bad row, every mistake that ends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import File, WordProblems
from orchestrator.questions.formats import BadValue, question
from orchestrator.questions.load import LoadedQuestions, QuestionsError, load_questions
from orchestrator.questions.rows import Row
from store.types import content_id

TWO = b'{"question": "1+1?", "answer": "2"}\n{"question": "1+2?", "answer": 3}\n'


def _load(folder: Path, content: bytes | str, name: str = "q.jsonl", **parts: object) -> LoadedQuestions:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return load_questions(File.model_validate({"kind": "file", "path": name} | parts), folder)


def _lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def _answers(loaded: LoadedQuestions) -> list[str | None]:
    return [question.answer for question in loaded.questions]


def test_ids_are_hashes_of_content(tmp_path: Path) -> None:
    first = _load(tmp_path, TWO).questions[0]
    assert first.id == content_id("question", "1+1?", "2", "math", ())
    assert first.source == "q.jsonl"
    assert first.meta == {"row": "q.jsonl:1"}


@pytest.mark.parametrize(
    "content",
    [TWO, b"\xef\xbb\xbf" + TWO, TWO.replace(b"\n", b"\r\n"), b"\n\n" + TWO.replace(b"\n", b"\n \n"), TWO.rstrip()],
    ids=["plain", "BOM", "CRLF", "blank lines", "no last newline"],
)
def test_jsonl_in_any_dress(tmp_path: Path, content: bytes) -> None:
    assert _answers(_load(tmp_path, content)) == ["2", "3"]


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"canary": "x", "rows": rows}], ids=["list", "object"])
def test_json(tmp_path: Path, wrap: object) -> None:
    rows = [json.loads(line) for line in TWO.splitlines()]
    assert callable(wrap)
    loaded = _load(tmp_path, json.dumps(wrap(rows), indent=1), "q.json")
    assert _answers(loaded) == ["2", "3"]
    assert loaded.questions[1].meta == {"row": "q.json: row 2"}


def test_lines_of_json_named_json(tmp_path: Path) -> None:
    assert _answers(_load(tmp_path, TWO, "q.json")) == ["2", "3"]


def test_csv(tmp_path: Path) -> None:
    content = '\ufeffquestion,answer\r\n"How many,\r\nin all?","1,080"\r\n\r\nWhat?,2\r\nBad\r\nToo,many,cells\r\n'
    loaded = _load(tmp_path, content, "q.csv")
    assert [q.text for q in loaded.questions] == ["How many,\r\nin all?", "What?"]
    assert _answers(loaded) == ["1080", "2"]
    assert [(bad.where, bad.reason) for bad in loaded.bad] == [
        ("q.csv:6", "answer: not a number but nothing"),
        ("q.csv:7", "more cells than the first line has columns"),
    ]


def test_csv_with_a_broken_character_loses_that_row_only(tmp_path: Path) -> None:
    loaded = _load(tmp_path, b"question,answer\na,1\n\xff,2\nc,3\n", "q.csv")
    assert _answers(loaded) == ["1", "3"]
    assert [(bad.where, bad.reason) for bad in loaded.bad] == [("q.csv:3", "not UTF-8")]


BAD_ROWS = [
    (b'{"question": "a"', "broken JSON at character 17"),
    (b'["a", 1]', "not an object with columns but list"),
    (b'{"answer": 1}', "no column 'question'; columns: answer"),
    (b'{"question": "a"}', "no column 'answer'; columns: question"),
    (b'{"question": " ", "answer": 1}', "question: empty"),
    (b'{"question": 3, "answer": 1}', "question: not text but 3"),
    (b'{"question": "a", "answer": null}', "answer: not a number but nothing"),
    (b'{"question": "a", "answer": true}', "answer: not a number but True"),
    (b'{"question": "a", "answer": NaN}', "answer: not a number but nan"),
    (b'{"question": "a", "answer": " "}', "answer: empty"),
    (b'{"question": "a", "answer": [1]}', "answer: not a number but [1]"),
    (b'{"question": "\xff", "answer": 1}', "not UTF-8 at byte 15 of the line"),
    (b'{"question": "\\ud800", "answer": 1}', "text with half a character (a lone surrogate)"),
    (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "JSON that cannot be read"),
    (b'{"question": "a", "answer": ' + b"[" * 100_000 + b"}", "JSON that cannot be read"),
    (b'{"question": "1+1?", "answer": 2.0}', "duplicate of q.jsonl:1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_named_and_the_others_are_kept(tmp_path: Path, line: bytes, reason: str) -> None:
    loaded = _load(tmp_path, TWO + line + b'\n{"question": "last", "answer": 4}')
    assert _answers(loaded) == ["2", "3", "4"]
    assert [bad.where for bad in loaded.bad] == ["q.jsonl:3"]
    assert loaded.bad[0].reason.startswith(reason)


FATAL = [
    ("q.jsonl", b"", "q.jsonl: no rows; format 'fields' accepts"),
    ("q.jsonl", b"{}\n{}", "q.jsonl: none of 2 rows can be used; first q.jsonl:1: no column 'question'; columns: none; format"),
    ("q.jsonl", b"\xff\xfe{\x00", "q.jsonl: its only row cannot be used; first q.jsonl:1: not UTF-8 at byte 1 of the line"),
    ("q.json", b"[{", "q.json:1: broken JSON at column 3"),
    ("q.json", b"\xff", "q.json: not UTF-8 at byte 1"),
    ("q.json", b"3", "q.json: int at the top; accepted: a list of objects"),
    ("q.json", b'{"a": 1}', "q.json: an object with no lists (none); accepted"),
    ("q.json", b'{"a": [], "b": []}', "q.json: an object with 2 lists (a, b); accepted"),
    ("q.json", b"[" * 100_000, "q.json: JSON that cannot be read"),
    ("q.json", b"[]", "q.json: no rows"),
    ("q.csv", b"", "q.csv: no rows"),
    ("q.csv", b"question,answer\n", "q.csv: no rows"),
    ("q.parquet", b"nothing of the kind", "q.parquet: broken parquet after row 0"),
    ("q.txt", TWO, "q.txt: not a kind of file that is read; accepted: a .jsonl, .json, .csv or .parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), FATAL, ids=[message for _, _, message in FATAL])
def test_mistakes_that_end_it_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(QuestionsError) as caught:
        _load(tmp_path, content, name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    for path, message in (
        ("gone.jsonl", "gone.jsonl: no such file"),
        (".", ".: a folder; accepted"),
        ("hf:x", "hf:x: not the id"),
    ):
        with pytest.raises(QuestionsError, match=f"^{message}"):
            load_questions(File(kind="file", path=path), tmp_path)


def test_windows_count_rows_so_that_they_never_overlap(tmp_path: Path) -> None:
    content = _lines({"question": "a", "answer": 1}, {}, {"question": "c", "answer": 3}, {"question": "d", "answer": 4})
    assert _answers(_load(tmp_path, content, count=2)) == ["1"]
    assert _answers(_load(tmp_path, content, skip=2)) == ["3", "4"]
    assert _answers(_load(tmp_path, content, skip=2, count=1)) == ["3"]
    with pytest.raises(QuestionsError, match="no rows after skipping 4"):
        _load(tmp_path, content, skip=4)


def test_dotted_columns_reach_into_objects_and_lists(tmp_path: Path) -> None:
    row = {"q": {"text": "Which?", "options": ["red", "blue"]}, "key.dot": "read this", "answers": [{"label": "B"}]}
    fields = {"question": "q.text", "answer": "answers.0.label", "choices": "q.options", "context": "key.dot"}
    (question,) = _load(tmp_path, _lines(row), fields=fields, answers="choice").questions
    assert (question.text, question.answer, question.choices, question.context) == ("Which?", "B", ("red", "blue"), "read this")


def test_the_same_question_beside_another_text_is_another_question(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": 1, "story": story} for story in ("one", "two", None)]
    loaded = _load(tmp_path, _lines(*rows), fields={"context": "story"})
    assert [q.context for q in loaded.questions] == ["one", "two", None]


def test_without_answers(tmp_path: Path) -> None:
    assert _answers(_load(tmp_path, _lines({"question": "a"}), fields={"answer": None})) == [None]


CHOICE_ANSWERS = [
    ("B", "B"),
    ("(b)", "B"),
    ("blue", "B"),
    (1, "B"),
    ("B. blue", "B"),
    ("D", None),
    ("green", None),
    (3, None),
    (-1, None),
    ("1", None),
    ("A or B", None),
    ("(A) blue", None),
    (None, None),
    (True, None),
]


@pytest.mark.parametrize(("answer", "letter"), CHOICE_ANSWERS)
def test_a_choice_answer_is_one_of_the_options(answer: object, letter: str | None) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "choice", "fields": {"choices": "options"}})
    row = Row("q:1", {"question": "Which?", "answer": answer, "options": ["red", "blue", "grey"]})
    if letter:
        assert question(row, source).answer == letter
    else:
        with pytest.raises(BadValue, match=r"^answer: .* option"):
            question(row, source)


def test_an_index_among_numbers_is_ambiguous(tmp_path: Path) -> None:
    rows = [{"question": str(answer), "options": [1, 2, 3], "answer": answer} for answer in (1, "1", 0, 3)]
    loaded = _load(tmp_path, _lines(*rows), answers="choice", fields={"choices": "options"})
    assert _answers(loaded) == ["A", "A", "C"]
    assert [bad.where for bad in loaded.bad] == ["q.jsonl:1"]


@pytest.mark.parametrize("options", [[], ["one"], ["a", ""], ["a", None], "a, b", {"a": 1}, [str(n) for n in range(27)]])
def test_bad_options(tmp_path: Path, options: object) -> None:
    with pytest.raises(QuestionsError, match="options: "):
        _load(
            tmp_path,
            _lines({"question": "a", "options": options, "answer": "A"}),
            answers="choice",
            fields={"choices": "options"},
        )


def test_options_as_json_in_a_cell_and_options_in_the_text(tmp_path: Path) -> None:
    content = 'question,answer,options\nWhich?,b,"[""red"", ""blue""]"\n'
    (question,) = _load(tmp_path, content, "q.csv", answers="choice", fields={"choices": "options"}).questions
    assert (question.choices, question.answer) == (("red", "blue"), "B")
    (question,) = _load(tmp_path, _lines({"question": "Which?\n(A) red\n(B) blue", "answer": "blue"}), answers="choice").questions
    assert (question.choices, question.answer) == (("red", "blue"), "B")


@pytest.mark.parametrize(("value", "answer"), [(True, "yes"), (False, "no"), ("True", "yes"), ("NO", "no"), (" yes ", "yes")])
def test_boolean_answers(tmp_path: Path, value: object, answer: str) -> None:
    assert _answers(_load(tmp_path, _lines({"question": "a", "answer": value}), answers="boolean")) == [answer]


@pytest.mark.parametrize("value", [1, "maybe", None, "", "yes or no"])
def test_no_boolean_answers(tmp_path: Path, value: object) -> None:
    with pytest.raises(QuestionsError, match="answer: not yes, no, true or false but"):
        _load(tmp_path, _lines({"question": "a", "answer": value}), answers="boolean")


LABELS = [
    *[(0, "entailment"), (1, "neutral"), (2, "contradiction"), ("2", "contradiction"), (" Neutral ", "neutral")],
    *[
        ("entailed", "entailment"),
        (-1, None),
        (3, None),
        (True, None),
        (1.0, None),
        ("yes", None),
        ("not neutral", None),
        (None, None),
    ],
]


@pytest.mark.parametrize(("value", "label"), LABELS)
def test_entailment_answers_are_labels_or_their_numbers(value: object, label: str | None) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "entailment"})
    row = Row("q:1", {"question": "a", "answer": value})
    if label:
        assert question(row, source).answer == label
    else:
        with pytest.raises(BadValue, match=r"^answer: not entailment, neutral or contradiction \(0, 1, 2\) but"):
            question(row, source)


SPANS = [
    (" the dog ", "the dog"),
    (12.50, "12.5"),
    ("$5.2 million", "$5.2 million"),
    (["one"], "one"),
    (["a dog", 3], '["a dog", "3"]'),
    *[([], None), (["x", None], None), ([["x"]], None), ("", None), ("...", None), (None, None), (True, None), ({"a": 1}, None)],
]


@pytest.mark.parametrize(("value", "answer"), SPANS)
def test_span_answers_are_texts_numbers_or_several(value: object, answer: str | None) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "span"})
    row = Row("q:1", {"question": "a", "answer": value})
    if answer:
        assert question(row, source).answer == answer
    else:
        with pytest.raises(BadValue, match=r"^answer: "):
            question(row, source)


@pytest.mark.parametrize(("value", "answer"), [("It rains.", "It rains."), (None, None), (" ", None), (3, "3")])
def test_open_answers_are_any_text_or_none(value: object, answer: str | None) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "open"})
    assert question(Row("q:1", {"question": "a", "answer": value}), source).answer == answer


ALIASES = [(["two", 2.0, "2", "two"], ("two",)), ('["deux"]', ("deux",)), ([], ()), (None, ()), ("", ())]


@pytest.mark.parametrize(("value", "aliases"), ALIASES)
def test_other_answers_are_kept_once_and_are_part_of_the_id_only_where_there_are_any(
    value: object, aliases: tuple[str, ...]
) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "span", "fields": {"aliases": "others"}})
    found = question(Row("q:1", {"question": "a", "answer": "2", "others": value}), source)
    assert found.aliases == aliases
    plain = content_id("question", "a", "2", "span", ())
    assert found.id == (content_id("question", "a", "2", "span", (), aliases) if aliases else plain)


@pytest.mark.parametrize("value", ["two", 3, {"a": 1}, [None], [["x"], {}]])
def test_bad_lists_of_other_answers(value: object) -> None:
    source = File.model_validate({"kind": "file", "path": "q", "answers": "span", "fields": {"aliases": "others"}})
    with pytest.raises(BadValue, match=r"^others: "):
        question(Row("q:1", {"question": "a", "answer": "2", "others": value}), source)


NUMBERS = [
    (145.0, "145"),
    ("145.0", "145"),
    ("1,080", "1080"),
    (3.33333, "3.33333"),
    (0.1, "0.1"),
    (1e21, "1" + "0" * 21),
    (1e-7, "0.0000001"),
    (-5, "-5"),
    (-0.0, "0"),
    ("3/4", "3/4"),
    ("3 hours", "3 hours"),
    (r"\frac{1}{2}", r"\frac{1}{2}"),
    ("1,2", "1,2"),
]


@pytest.mark.parametrize(("value", "answer"), NUMBERS)
def test_numbers_are_written_plainly_and_kept_exactly(tmp_path: Path, value: object, answer: str) -> None:
    assert _answers(_load(tmp_path, _lines({"question": "a", "answer": value}))) == [
        answer.replace("-0", "0") if value == 0 else answer
    ]


@given(
    st.dictionaries(
        st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=4)
    )
)
def test_no_row_raises_anything_but_bad_value(columns: dict[str, object]) -> None:
    for kind in ("math", "choice", "boolean", "entailment", "span", "open"):
        source = File.model_validate({"kind": "file", "path": "q", "answers": kind, "fields": {"aliases": "a"}})
        try:
            assert question(Row("q:1", {"question": "a", "a": None} | columns), source).kind == kind
        except BadValue as error:
            assert str(error)


FORMATS = [
    ("gsm8k", {"question": "How many?", "answer": "So 5.\n#### 1,005"}, "How many?", "1005", "math"),
    ("svamp", {"Body": "Ed has 3.", "Question": "How many?", "Answer": 3.0}, "Ed has 3. How many?", "3", "math"),
    ("svamp", {"Body": "If Ed has 3", "Question": "How many?", "Answer": 3.0}, "If Ed has 3, how many?", "3", "math"),
    ("mawps", {"input": "How many?", "target": 0.875}, "How many?", "0.875", "math"),
    (
        "bbh",
        {"input": "When?\nOptions:\n(A) now\n(B) then", "target": "(B)"},
        "When?\nOptions:\n(A) now\n(B) then",
        "B",
        "choice",
    ),
    ("bbh", {"input": "Is it?", "target": "False"}, "Is it?", "no", "boolean"),
    ("bbh", {"input": "How many?", "target": "8"}, "How many?", "8", "math"),
    ("strategyqa", {"question": "Is it?", "answer": True}, "Is it?", "yes", "boolean"),
]


@pytest.mark.parametrize(("name", "row", "text", "answer", "kind"), FORMATS)
def test_formats(tmp_path: Path, name: str, row: dict[str, object], text: str, answer: str, kind: str) -> None:
    (question,) = _load(tmp_path, _lines(row), format=name).questions
    assert (question.text, question.answer, question.kind) == (text, answer, kind)


FORMAT_MISTAKES = [
    ("gsm8k", {"question": "How many?", "answer": "5"}, "answer: no #### before the number; format 'gsm8k' accepts"),
    (
        "bbh",
        {"input": "When?\nOptions:\n(A) now\n(B) then", "target": "(C)"},
        "answer: '(C)' is not plainly one of the 2 options",
    ),
    ("bbh", {"input": "When?", "target": "then"}, "target: 'then' is no letter of an option, yes, no or number"),
    ("strategyqa", {"question": "Is it?", "answer": "x" * 100}, "answer: not yes, no, true or false but 'xxx"),
]


@pytest.mark.parametrize(("name", "row", "message"), FORMAT_MISTAKES)
def test_mistakes_in_formats(tmp_path: Path, name: str, row: dict[str, object], message: str) -> None:
    with pytest.raises(QuestionsError) as caught:
        _load(tmp_path, _lines(row), format=name)
    assert message in str(caught.value)


def test_word_problems_are_a_source_too(tmp_path: Path) -> None:
    source = WordProblems(kind="word_problems", count=12)
    loaded = load_questions(source, tmp_path)
    assert (len(loaded.questions), loaded.bad) == (12, ())
