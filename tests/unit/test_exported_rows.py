"""The shapes of exported rows, whatever is in them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.exports.card import plain, table
from orchestrator.exports.columns import MESSAGES, PAIRS, writable
from orchestrator.exports.export import json_line
from orchestrator.exports.licences import hub_licence
from orchestrator.exports.pairs import paired
from orchestrator.exports.rows import alpaca_row, messages_row, pair_row, sharegpt_row
from store.store import Judged
from store.types import Outcome, Question, Ruling, Standing, Trajectory, Usage, Verdict

ANY = st.text(st.characters(exclude_categories=()), max_size=20) | st.text(
    st.sampled_from("|`\\\n\r<>&#*_[]()!-~$\x00\x1b\x9b\u2028\ud83e\udd16\ud800 a:"), max_size=20
)
REAL = st.floats(allow_nan=False, allow_infinity=False)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


QUESTIONS = st.builds(
    Question, id=ANY, text=ANY, answer=maybe(ANY), kind=st.just("open"), choices=st.tuples(ANY), context=maybe(ANY), source=ANY
)
TRAJECTORIES = st.builds(
    Trajectory,
    id=ANY,
    question=ANY,
    nodes=st.just(()),
    teachers=st.lists(ANY, max_size=2).map(tuple),
    text=ANY,
    conclusion=ANY,
    answer=maybe(ANY),
    origin=st.just("style"),
    score=maybe(REAL),
    best=st.booleans(),
    usage=st.just(Usage(prompt=1)),
    style=maybe(ANY),
    cost=maybe(REAL),
)
VERDICTS = st.builds(
    Verdict,
    trajectory=ANY,
    outcome=st.sampled_from(Outcome),
    reason=ANY,
    target=st.sampled_from([None, "gold", "consensus"]),
)
RULINGS = st.builds(Ruling, trajectory=ANY, judge=ANY, ruled=st.just("valid"), reason=ANY)
STANDINGS = st.builds(Standing, trajectory=ANY, centrality=REAL, nearest=REAL, support=maybe(REAL), misleading=st.booleans())
JUDGED = st.builds(
    Judged,
    question=QUESTIONS,
    trajectory=TRAJECTORIES,
    verdict=maybe(VERDICTS),
    nodes=st.just([]),
    rulings=st.lists(RULINGS, max_size=2),
    standing=maybe(STANDINGS),
    target=maybe(ANY),
    target_support=maybe(REAL),
    position=st.just(0),
)


@given(JUDGED, maybe(ANY))
def test_every_row_comes_back_from_one_line_of_json(judged: Judged, system: str | None) -> None:
    for shape in (messages_row, sharegpt_row, alpaca_row):
        row = shape(judged, system)
        line = json_line(row)
        assert line.encode()
        assert line.splitlines() == [line.removesuffix("\n")]
        assert json.loads(line) == writable(row)


@given(st.lists(st.tuples(JUDGED, maybe(ANY)), max_size=4))
def test_every_row_comes_back_from_parquet_with_the_same_types(made: list[tuple[Judged, str | None]]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'peripatos[data]'")
    import pyarrow.parquet

    from orchestrator.exports.parquet import arrow_schema

    rows = [writable(messages_row(judged, system)) for judged, system in made]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, arrow_schema(MESSAGES)), file)
    read = pyarrow.parquet.read_table(file)
    assert read.to_pylist() == rows
    assert read.schema.equals(arrow_schema(MESSAGES))


@given(st.lists(JUDGED, max_size=6), maybe(ANY))
def test_each_worse_trajectory_is_in_one_pair_with_an_accepted_one(judged: list[Judged], system: str | None) -> None:
    pairs = paired(judged)
    outcomes = [each.verdict.outcome for each in judged if each.verdict]
    worse = sum(outcome in (Outcome.WRONG_ANSWER, Outcome.UNSOUND) for outcome in outcomes)
    assert len(pairs) <= (worse if Outcome.ACCEPTED in outcomes else 0)
    assert pairs == paired(judged[::-1]) or len({each.trajectory.id for each in judged}) < len(judged)
    for pair in pairs:
        row = pair_row(pair, system)
        assert list(row) == list(PAIRS)
        assert row["chosen_verdict"] == "accepted"
        assert row["rejected_verdict"] in ("wrong_answer", "unsound")
        assert row["chosen"] != row["rejected"]


@given(ANY)
def test_only_half_characters_are_replaced(text: str) -> None:
    written = writable({"a": [text]})["a"][0]
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert written == whole
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert written == text


@given(ANY, ANY)
def test_a_cell_of_the_card_is_only_text(one: str, other: str) -> None:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(table(("a", "b"), [(one, other)]))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    for cell in cells[2:]:
        assert {inner.type for inner in cell.children or ()} <= {"text", "text_special"}
    shown = ["".join(inner.content for inner in cell.children or ()) for cell in cells[2:]]
    assert ["".join(text.split()) for text in shown] == [_seen(one), _seen(other)]
    assert plain(one).isprintable()


def _seen(text: str) -> str:
    import unicodedata

    kept = " ".join(text.split())
    return "".join("".join("\ufffd" if unicodedata.category(each)[0] == "C" else each for each in kept).split())


@pytest.mark.parametrize(
    ("stated", "claimed"),
    [
        ([], None),
        ([None, None], None),
        (["apache-2.0", "Apache-2.0"], "apache-2.0"),
        (["apache-2.0", None], "other"),
        (["apache-2.0", "mit"], "other"),
        (["Ask my lawyer"], "other"),
        (["mit\nconfigs: []"], "other"),
    ],
)
def test_a_licence_is_claimed_only_when_all_say_the_same(stated: list[str | None], claimed: str | None) -> None:
    assert hub_licence(stated) == claimed
