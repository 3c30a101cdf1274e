"""Random writes, many of them repeated: the counts stay what the rows say, and events tell of changes only."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recount import recounted
from test_store import FAILURE, Work, attempt, call, node, question, route, stored, trajectory, verdict

from store.store import Store, StoreError
from store.types import Advance, NodeState, Outcome, QuestionState

STATES = st.sampled_from([QuestionState.SOLVED, QuestionState.UNSOLVED])
KEYS = st.integers(0, 3)


def operations() -> st.SearchStrategy[Work]:
    """Writes over so few keys that most come more than once."""
    outcomes = st.sampled_from(Outcome)
    states = st.sampled_from(NodeState)
    return st.one_of(
        st.builds(lambda a, b: lambda s: s.record_calls([call(f"c{a}"), call(f"c{b}", "q1")]), KEYS, KEYS),
        st.builds(lambda a: lambda s: s.record_calls([replace(call(f"d{a}"), cost=0.25, reused=a % 2 == 1)]), KEYS),
        st.builds(lambda a, b, c: lambda s: s.record_advance(advanced(a, b, c)), KEYS, states, states),
        st.builds(lambda a, o, st_: lambda s: settled(s, a, o, st_), KEYS, outcomes, STATES),
        st.just(lease),
        st.builds(lambda a: lambda s: requeued(s, f"q{a}"), KEYS),
        st.just(lambda s: s.release_leases("me")),
        st.builds(lambda a: lambda s: s.record_failure(replace(FAILURE, id=f"f{a}", where="sift" if a else "search")), KEYS),
        st.builds(lambda a: lambda s: s.record_attempts([attempt(f"a{a}"), attempt("a0")]), KEYS),
        st.builds(lambda a: lambda s: s.add_questions([question(f"x{a}"), question(0)], split="train"), KEYS),
    )


def advanced(key: int, first: NodeState, second: NodeState) -> Advance:
    return Advance(question="q0", kept=(node(f"n{key}", first),), pruned=(node("n0", second, rank=key),))


async def lease(store: Store) -> None:
    await store.lease_question("me", 60)


async def requeued(store: Store, key: str) -> None:
    with contextlib.suppress(StoreError):  # it is not unsolved
        await store.ask("requeue", key, by="me")


async def settled(store: Store, key: int, outcome: Outcome, state: QuestionState) -> None:
    made = trajectory(f"t{key}", key / 8, of=f"q{key}")
    await store.settle_question(f"q{key}", state, "", [made], [verdict(made.id, outcome)], [route(made.id)])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(operations(), st.booleans()), min_size=1, max_size=12))
def test_counts_are_what_the_rows_say_and_events_tell_of_changes_only(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Work, bool]]
) -> None:
    async def work(store: Store) -> None:
        await store.add_questions([question(key) for key in range(4)], split="train")
        await store.add_questions([question("h")], split="held_out")
        await store.add_questions([question("h"), question("f")], split="held_out:far")
        for step, twice in steps:
            before = await store.dump()
            await step(store)
            after = await store.dump()
            without = [{name: rows for name, rows in dump.items() if name != "event"} for dump in (before, after)]
            assert (without[0] == without[1]) == (before["event"] == after["event"])
            if twice and step is not lease:
                await step(store)
                assert await store.dump() == after
        counts = await store.counts()
        assert +Counter(counts) == +recounted(await store.dump())
        assert min(counts.values()) >= 0

    stored(tmp_path_factory.mktemp("counts"), work)
