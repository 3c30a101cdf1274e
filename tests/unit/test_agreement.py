"""Cohen's kappa is scikit-learn's, where it is defined, and the raters are those whose votes were counted."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from orchestrator.agreement import CHECK, Agreement, agreements, kappa

PAIRS = [(True, True), (True, False), (False, True), (False, False)]
EVEN = {True: 1.0, False: 1.0}
tables = st.dictionaries(st.sampled_from(PAIRS), st.integers(min_value=0, max_value=10**6))
weights = st.builds(lambda right, wrong: {True: right, False: wrong}, *[st.floats(min_value=0.01, max_value=100)] * 2)


def theirs(cells: dict[tuple[bool, bool], int], weights: dict[bool, float] = EVEN) -> float | None:
    """Scikit-learn's, from one item for each cell that weighs as much as the cell; None where it is not defined."""
    rated = [pair for pair, num in cells.items() if num]
    if len({vote for pair in rated for vote in pair}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ones, others = zip(*rated, strict=True)
        return cohen_kappa_score(ones, others, sample_weight=[cells[pair] * weights[pair[1]] for pair in rated])


@given(tables, weights)
def test_kappa_is_scikit_learns(cells: dict[tuple[bool, bool], int], weights: dict[bool, float]) -> None:
    for weighed in (EVEN, weights):
        found = kappa("ann", "bob", cells, weighed)
        assert (found.one, found.other, found.items) == ("ann", "bob", sum(cells.values()))
        right = theirs(cells, weighed)
        assert found.kappa == (None if right is None else pytest.approx(right, rel=1e-6, abs=1e-9))


@given(tables, weights)
def test_who_is_named_first_does_not_matter(cells: dict[tuple[bool, bool], int], weights: dict[bool, float]) -> None:
    one, other = (
        kappa("a", "b", cells),
        kappa("a", "b", {(b, a): num for (a, b), num in cells.items()}),
    )
    assert other.share == (None if one.share is None else pytest.approx(one.share))
    assert other.kappa == (None if one.kappa is None else pytest.approx(one.kappa, abs=1e-9))
    scaled = kappa("a", "b", cells, {vote: 7 * weight for vote, weight in weights.items()})
    plain = kappa("a", "b", cells, weights)
    assert scaled.kappa == (None if plain.kappa is None else pytest.approx(plain.kappa, abs=1e-9))


@pytest.mark.parametrize(
    ("cells", "share", "value"),
    [
        ({}, None, None),
        ({(True, True): 0}, None, None),
        ({(True, True): 5}, 1.0, None),
        ({(False, False): 5}, 1.0, None),
        ({(True, False): 5}, 0.0, 0.0),
        ({(True, True): 5, (False, False): 5}, 1.0, 1.0),
        ({(True, False): 5, (False, True): 5}, 0.0, -1.0),
        ({(True, True): 5, (True, False): 5}, 0.5, 0.0),
        (dict.fromkeys(PAIRS, 3), 0.5, 0.0),
        ({(True, True): 20, (True, False): 5, (False, True): 10, (False, False): 15}, 0.7, 0.4),
    ],
)
def test_known_tables(cells: dict[tuple[bool, bool], int], share: float | None, value: float | None) -> None:
    found = kappa("a", "b", cells)
    assert found.share == (None if share is None else pytest.approx(share))
    assert found.kappa == (None if value is None else pytest.approx(value, abs=1e-12))


def test_raters_who_nearly_always_say_the_same_still_have_a_kappa() -> None:
    found = kappa("a", "b", {(True, True): 10**9, (False, False): 1})
    assert found.kappa == pytest.approx(1.0)


COUNTS = {
    "votes.valid.valid.gpt-4.1/o3.mini-2": 20,
    "votes.valid.invalid.gpt-4.1/o3.mini-2": 5,
    "votes.invalid.valid.gpt-4.1/o3.mini-2": 10,
    "votes.invalid.invalid.gpt-4.1/o3.mini-2": 15,
    "votes.valid.valid.ann/bob": 1,
    "checked.valid.right.gpt-4.1": 8,
    "checked.invalid.right.gpt-4.1": 2,
    "checked.valid.wrong.gpt-4.1": 1,
    "checked.invalid.wrong.gpt-4.1": 3,
    "checked.valid.right.right.valid": 4,
    "rulings.valid.gpt-4.1": 99,
    "rulings.unreadable.gpt-4.1": 99,
    "trajectories.accepted": 99,
    "votesand.valid.valid.x/y": 99,
}


def test_agreements_from_counts_with_dots_in_names() -> None:
    found = {(each.one, each.other): each for each in agreements(COUNTS, 0.25)}
    assert list(found) == [("ann", "bob"), ("gpt-4.1", "o3.mini-2"), ("gpt-4.1", CHECK), ("right.valid", CHECK)]
    assert found["gpt-4.1", "o3.mini-2"] == Agreement(
        one="gpt-4.1", other="o3.mini-2", items=50, share=pytest.approx(0.7), kappa=pytest.approx(0.4)
    )
    assert found["ann", "bob"] == Agreement(one="ann", other="bob", items=1, share=1.0, kappa=None)
    assert found["right.valid", CHECK].items == 4


def test_each_audited_trajectory_stands_for_those_that_were_not_judged() -> None:
    """A quarter of the wrong ones is judged: as if each had been judged four times."""
    (found,) = [each for each in agreements(COUNTS, 0.25) if (each.one, each.other) == ("gpt-4.1", CHECK)]
    whole = {(True, True): 8, (False, True): 2, (True, False): 4, (False, False): 12}
    assert found.items == 14
    assert found.share == pytest.approx(20 / 26)
    assert found.kappa == pytest.approx(theirs(whole))


def test_without_an_audit_nobody_knows_how_they_agree_with_the_answer_check() -> None:
    counts = {"checked.valid.right.a": 3, "checked.invalid.right.a": 1, "checked.invalid.wrong.a": 4}
    (found,) = agreements(counts, 1.0)
    assert found == Agreement(one="a", other=CHECK, items=8, share=pytest.approx(0.875), kappa=pytest.approx(0.75))
    assert agreements(counts, 0.0) == []


def test_of_no_counts_there_is_no_agreement() -> None:
    assert agreements({}, 0.1) == []
