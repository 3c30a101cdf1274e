"""What the inspector tells is what lies in the store: pages, filters, nouns with what belongs to them, the run at a glance."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspected import (
    JUDGES,
    NUM_QUESTIONS,
    NUM_SETTLED,
    PULSE,
    STUDENTS,
    TEACHERS,
    Row,
    Site,
    beat,
    begin,
    changed,
    configured,
    counts_in,
    fill,
    listening,
    make,
    node,
    question,
    recounted,
    rows,
    sampled,
    served,
    settle,
    ticking,
    within,
    written,
)

from agents import prompts
from agents.ledger import turns_hash
from configs.schema import Http
from orchestrator.folder import Folder
from orchestrator.inspector.server import application
from orchestrator.summary import summarise
from store import pace, pages, training_pages
from store.control import Verb
from store.database import connect
from store.pages import SCAN, TITLE
from store.reasoning import closed_reasoning, open_reasoning
from store.settling import THIRDS
from store.store import Store
from store.types import (
    Advance,
    Call,
    Outcome,
    QuestionState,
    Ruling,
    Usage,
    Verdict,
    content_id,
)
from store.writes import LATENCIES_S

TESTS = Path(__file__).parent
LIMITS = st.sampled_from((1, 3, 10, 50, 500))
TEXTS = st.sampled_from(
    (
        *(
            "apples",
            "PEARS and",
            "%",
            "100%_SURE",
            "_",
            'quo"ted',
            "äpfel",
            "Äpfel",
            "ÄPFEL",
            "STRAßE",
            "strasse",
            "'; --",
            "\x00",
        ),
        *("question 1", "think 0", "in plain", "i am sure", "ANSWER IS 0", "long " * 20, "", question(3).id),
    )
)

SCORES = st.floats(0, 1) | st.integers(0, 4 * NUM_SETTLED - 1)
"""Any score, or that of the trajectory in this place."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = make(tmp_path_factory.mktemp("run"), fill, clock=ticking())
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def view(site: Site) -> Mapping[str, Any]:
    """The run while a process lives."""
    beat(site.folder)
    return site.settled_view()


def keys(found: list[Row], key: str = "id") -> list[Any]:
    return [row[key] for row in found]


# Pages, one after the other


@settings(max_examples=25)
@given(
    split=st.sampled_from(("train", "held_out", "elsewhere")),
    state=st.lists(st.sampled_from(QuestionState), max_size=3),
    text=st.none() | TEXTS,
    limit=LIMITS,
)
def test_the_questions_of_all_pages_are_those_that_match_in_their_order(
    site: Site, split: str, state: list[str], text: str | None, limit: int
) -> None:
    expected = [
        row["id"]
        for row in sorted(rows(site.folder, "question"), key=lambda row: row["position"])
        if row["split"] == split and (not state or row["state"] in state) and (within(text, row["text"]) or row["id"] == text)
    ]
    assert keys(site.all("/api/questions", split=split, state=state, text=text, limit=limit)) == expected


@settings(max_examples=40)
@given(
    about=st.none() | st.integers(0, NUM_QUESTIONS),
    teacher=st.none() | st.sampled_from((*TEACHERS, "an", 'ann","bob', "nobody")),
    verdict=st.lists(st.sampled_from(Outcome), max_size=3),
    least=st.none() | SCORES,
    most=st.none() | SCORES,
    text=st.none() | TEXTS,
    limit=LIMITS,
)
def test_the_trajectories_of_all_pages_are_those_that_match_newest_first(
    site: Site,
    about: int | None,
    teacher: str | None,
    verdict: list[Outcome],
    least: float | None,
    most: float | None,
    text: str | None,
    limit: int,
) -> None:
    scores = [row["score"] for row in rows(site.folder, "trajectory")]
    least, most = (scores[each] if isinstance(each, int) else each for each in (least, most))
    outcomes = {row["trajectory"]: row["outcome"] for row in rows(site.folder, "verdict")}
    expected = [
        row["id"]
        for row in reversed(rows(site.folder, "trajectory"))
        if (about is None or row["question"] == question(about).id)
        and (teacher is None or teacher in json.loads(row["teachers"]))
        and (not verdict or outcomes[row["id"]] in verdict)
        and (least is None or (row["score"] is not None and row["score"] >= least))
        and (most is None or (row["score"] is not None and row["score"] <= most))
        and within(text, row["text"], row["conclusion"])
    ]
    asked = {"teacher": teacher, "verdict": verdict, "least": least, "most": most, "text": text, "limit": limit}
    about_id = None if about is None else question(about).id
    assert keys(site.all("/api/trajectories", question=about_id, **asked)) == expected


@settings(max_examples=15)
@given(
    kind=st.none() | st.sampled_from(("Overlong", "Diverged", "overlong", "Nothing")),
    subject=st.none() | st.sampled_from(("small", question(2).id, "nobody")),
    limit=LIMITS,
)
def test_the_failures_of_all_pages_are_those_that_match_newest_first(
    site: Site, kind: str | None, subject: str | None, limit: int
) -> None:
    expected = [
        {key: row[key] for key in ("place", "id", "where", "kind", "message", "tries", "subject")}
        for row in reversed(rows(site.folder, "failure"))
        if kind in (None, row["kind"]) and subject in (None, row["subject"])
    ]
    assert site.all("/api/failures", kind=kind, subject=subject, limit=limit) == expected


@settings(max_examples=15)
@given(student=st.sampled_from((*STUDENTS, "nobody")), gate=st.none() | st.integers(0, 1), limit=LIMITS)
def test_the_lessons_of_all_pages_are_those_of_the_student_newest_first(
    site: Site, student: str, gate: int | None, limit: int
) -> None:
    found = site.all(f"/api/students/{student}/lessons", gate=gate, limit=limit)
    expected = [
        (row["place"], row["trajectory"], row["student"], row["round"], row["gate"], row["probability"])
        for row in reversed(rows(site.folder, "route"))
        if row["student"] == student and gate in (None, row["gate"])
    ]
    of = ("student", "round", "gate", "probability")
    assert [(each["place"], each["trajectory"]["id"], *(each["assigned"][key] for key in of)) for each in found] == expected


@settings(max_examples=15)
@given(number=st.integers(0, NUM_QUESTIONS - 1), limit=LIMITS)
def test_a_tree_comes_whole_and_every_parent_before_its_children(site: Site, number: int, limit: int) -> None:
    found = site.all(f"/api/questions/{question(number).id}/tree", limit=limit)
    stored = [row for row in rows(site.folder, "node") if row["question"] == question(number).id]
    assert [each["place"] for each in found] == keys(stored, "place")
    seen: set[str | None] = {None}
    for line, row in zip(found, stored, strict=True):
        assert line["parent"] in seen
        seen.add(line["id"])
        renamed = {"step": row["step_index"], "authors": json.loads(row["authors"])}
        assert line == {key: row[key] for key in line if key not in renamed} | renamed


@settings(max_examples=15)
@given(number=st.integers(0, NUM_QUESTIONS - 1), limit=LIMITS)
def test_the_calls_about_a_question_come_whole_in_the_order_of_their_ends(site: Site, number: int, limit: int) -> None:
    found = site.all(f"/api/questions/{question(number).id}/calls", limit=limit)
    stored = [row for row in rows(site.folder, "call") if row["subject"] == question(number).id]
    assert found == [{key: bool(row[key]) if key == "reused" else row[key] for key in found[0]} for row in stored]


@settings(max_examples=15)
@given(student=st.sampled_from((*STUDENTS, "nobody")), every=st.sampled_from((1, 2, 5, 24, 25)), limit=LIMITS)
def test_the_metrics_of_all_pages_are_those_of_the_updates_that_are_wanted(
    site: Site, student: str, every: int, limit: int
) -> None:
    expected = [
        {"student": row["student"], "update": row["update"], "values": json.loads(row["numbers"])}
        for row in sorted(rows(site.folder, "metrics"), key=lambda row: row["update"])
        if row["student"] == student and row["update"] % every == 0
    ]
    assert site.all(f"/api/students/{student}/metrics", every=every, limit=limit) == expected


@pytest.mark.parametrize("limit", [100, 500])
def test_the_events_of_all_pages_are_all_events_in_the_order_of_commits(site: Site, limit: int) -> None:
    expected = [{key: row[key] for key in ("seq", "time", "kind", "subject")} for row in rows(site.folder, "event")]
    assert site.all("/api/events", limit=limit) == expected
    assert site.all("/api/events", limit=limit, after=expected[-30]["seq"]) == expected[-29:]


def test_the_controls_of_all_pages_are_all_that_was_asked_in_order(tmp_path: Path) -> None:
    async def asked(store: Store) -> None:
        await begin(store, 1)
        verbs: tuple[Verb, ...] = ("pause", "resume", "pause")
        for verb in verbs:
            await store.ask(verb, "ann", by="jo")
        await store.ask("set", "budget.usd", "7.5", was="30.0", by="al")
        await store.answer(1, "done")

    folder = make(tmp_path, asked)
    with served(folder) as site:
        expected = [{key: row[key] for key in row if key != "place"} for row in rows(folder, "control")]
        for limit in (1, 2, 4, 100):
            assert site.all("/api/controls", limit=limit) == expected
        assert [each["outcome"] for each in expected] == ["done", "", "", ""]


@pytest.mark.parametrize(
    "path",
    [
        *("questions?limit=0", "questions?limit=501", "trajectories?limit=-1", "failures?limit=x", "events?after=-2"),
        *("trajectories?least=1.5", "trajectories?most=nan", "trajectories?verdict=right", "questions?state=done", "history"),
        *(f"questions?after={2**62}", f"trajectories?text={'x' * 201}", f"failures?kind={'x' * 65}", f"nodes/{'x' * 65}"),
        *("students/small/metrics?every=0", "students/small/lessons?gate=2", "history?name=a&points=1001"),
        *(
            "history?name=a&since=inf",
            f"questions/{question(0).id}/calls?limit=501",
            f"questions/{question(0).id}/tree?limit=1001",
        ),
    ],
)
def test_what_cannot_be_asked_is_told_in_words_and_is_no_error_of_the_server(site: Site, path: str) -> None:
    answer = site.answer(f"/api/{path}")
    assert answer.status_code == 422
    assert all(set(each) >= {"loc", "msg", "type"} for each in answer.json()["detail"])


# However rare what is looked for


WIDE = content_id("wide")
"""A question that all nodes, calls and trajectories of a large store belong to."""


def large(root: Path, num: int) -> Folder:
    """`num` rows of each kind, of which three are rare: near the beginning, in the middle, and the last but one."""
    rare = f"i IN (3, {num // 2}, {num - 2})"
    each = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {num}) "
    question_columns = "id, split, position, text, kind, choices, aliases, source, meta, state, reason"
    node_columns = "id, question, parent, depth, rank, state, step_index, title, text, author, finish, authors, prompt_tokens"
    node_columns += ", completion_tokens, cached_tokens, score, logprobs, prover, target, reason"
    trajectory_columns = "id, question, nodes, teachers, text, conclusion, origin, score, best, prompt_tokens, completion_tokens"
    call_columns = "id, subject, agent, engine, purpose, request, response, prompt_tokens, completion_tokens, cached_tokens"
    folder = make(root, begin_empty)
    changed(
        folder,
        "BEGIN",
        f"{each} INSERT INTO question ({question_columns}) SELECT printf('q%05d', i), 'train', i, iif({rare}, 'a Rare one', "
        f"'one of many'), 'math', '[]', '[]', '', '{{}}', iif({rare}, iif(i = 3, 'unsolved', 'solved'), 'pending'), '' FROM n",
        f"INSERT INTO question ({question_columns}) VALUES ('{WIDE}', 'train', {num}, '', 'math', '[]', '[]', '', '{{}}', "
        "'pending', '')",
        f"{each} INSERT INTO node ({node_columns}) SELECT printf('n%05d', i), '{WIDE}', NULL, 1, i, 'pruned', 1, '', '', 'ann', "
        "'step', '[]', 1, 1, 0, 0.5, '[]', 'p', 'gold', '' FROM n",
        f"{each} INSERT INTO trajectory ({trajectory_columns}, cached_tokens) SELECT printf('t%05d', i), '{WIDE}', '[]', "
        f"iif({rare}, '[\"ann\"]', '[\"bob\"]'), iif({rare}, 'a Rare one', 'one of many'), '', 'search', "
        f"iif({rare}, 0.9, 0.1), 0, 1, 1, 0 FROM n",
        f"{each} INSERT INTO verdict (trajectory, outcome, reason) SELECT printf('t%05d', i), "
        f"iif({rare}, 'accepted', 'unsound'), '' FROM n",
        f"{each} INSERT INTO route (id, trajectory, student, round, gate, probability) SELECT printf('r%05d', i), "
        f"printf('t%05d', i), iif({rare}, 'small', 'tiny'), 0, 1, 1.0 FROM n",
        f"{each} INSERT INTO failure (id, [where], kind, message, tries, subject, request) SELECT printf('f%05d', i), 'search', "
        f"iif({rare}, 'Rare', 'Usual'), '', 1, '{WIDE}', '' FROM n",
        f"{each} INSERT INTO call ({call_columns}, latency_s, reused) SELECT printf('c%05d', i), '{WIDE}', 'ann', 'one', "
        "'propose', '{}', '{}', 1, 1, 0, 0.5, 0 FROM n",
        f"{each} INSERT INTO metrics (student, [update], numbers) SELECT 'small', i + 1, '{{}}' FROM n",
        f"{each} INSERT INTO report (student, trajectory, [update], cross_entropy, routed, alpha) SELECT 'small', "
        "printf('t%05d', i), 1 + i / 3, 1.0 + i % 5, 1, (i % 7) / 8.0 FROM n",
        "COMMIT",
    )
    return folder


async def begin_empty(store: Store) -> None:
    await begin(store, 0)


SIZES = (2 * SCAN, 6 * SCAN)


@pytest.fixture(scope="module")
def larges(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Folder]:
    return {num: large(tmp_path_factory.mktemp("large"), num) for num in SIZES}


@pytest.fixture(scope="module")
def large_site(larges: dict[int, Folder]) -> Iterator[Site]:
    with served(larges[2 * SCAN]) as found:
        yield found


RARE = {
    "/api/questions?text=rare": "q",
    "/api/questions?state=solved&state=unsolved": "q",
    "/api/trajectories?text=RARE": "t",
    "/api/trajectories?teacher=ann": "t",
    "/api/trajectories?verdict=accepted": "t",
    f"/api/trajectories?question={WIDE}&least=0.5": "t",
    "/api/failures?kind=Rare": "f",
    f"/api/failures?kind=Rare&subject={WIDE}": "f",
}


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
@pytest.mark.parametrize("path", RARE)
def test_what_is_rare_is_found_whole_though_some_pages_are_short(large_site: Site, path: str, limit: int) -> None:
    num = 2 * SCAN
    found = list(large_site.pages(f"{path}&limit={limit}"))
    expected = [f"{RARE[path]}{number:05d}" for number in (3, num // 2, num - 2)]
    ids = keys([item for items in found for item in items])
    assert ids == (expected if path.startswith("/api/questions") else expected[::-1])


def test_lessons_of_a_student_that_was_given_little_are_found_whole(large_site: Site) -> None:
    num = 2 * SCAN
    for limit in (1, 3, 50):
        found = [each["trajectory"]["id"] for each in large_site.all("/api/students/small/lessons", limit=limit)]
        assert found == [f"t{number:05d}" for number in (num - 2, num // 2, 3)]


def test_a_page_that_looked_at_enough_is_empty_and_has_a_next_one(large_site: Site) -> None:
    last = rows(large_site.folder, "trajectory")[-1]["place"]
    page = large_site.get("/api/trajectories", text="rare", after=last - 5, limit=50)
    assert (page["items"], page["next"]) != ([], None)
    empty = list(large_site.pages("/api/questions?text=nowhere"))
    assert len(empty) > 1
    assert not any(empty)


READS: Mapping[str, Callable[[sqlite3.Cursor], Any]] = {
    "questions": lambda c: questions(c),
    "questions of a rare state": lambda c: questions(c, states=["solved"]),
    "questions of two rare states": lambda c: questions(c, states=["solved", "unsolved"]),
    "questions of a rare and a usual state": lambda c: questions(c, states=["solved", "pending"], text="nowhere"),
    "questions with a rare text": lambda c: questions(c, text="nowhere"),
    "trajectories": lambda c: trajectories(c),
    "trajectories with a rare text": lambda c: trajectories(c, text="nowhere"),
    "trajectories of a rare verdict": lambda c: trajectories(c, outcomes=["duplicate"]),
    "trajectories of a rare teacher": lambda c: trajectories(c, teacher="nobody"),
    "trajectories of a rare score": lambda c: trajectories(c, least=0.99),
    "trajectories of a question": lambda c: trajectories(c, question=WIDE, text="nowhere"),
    "failures of a rare kind": lambda c: pages.failures(c, kind="None", subject=None, after=None, limit=50),
    "failures about a subject": lambda c: pages.failures(c, kind="None", subject=WIDE, after=None, limit=50),
    "a tree": lambda c: pages.tree(c, WIDE, None, 50),
    "calls": lambda c: pages.calls(c, WIDE, None, 50),
    "lessons of nobody": lambda c: training_pages.lessons(c, "nobody", None, None, 50),
    "lessons of a gate": lambda c: training_pages.lessons(c, "tiny", 0, None, 50),
    "metrics of few updates": lambda c: training_pages.metrics(c, "small", None, 10**6, 500),
    "weights": lambda c: training_pages.weights(c, "small", None),
}


def questions(cursor: sqlite3.Cursor, **which: Any) -> Any:
    return pages.questions(cursor, **{"split": "train", "states": [], "text": None, "after": None, "limit": 50, **which})


def trajectories(cursor: sqlite3.Cursor, **which: Any) -> Any:
    usual = dict.fromkeys(("question", "teacher", "least", "most", "text", "after"))
    return pages.trajectories(cursor, **{**usual, "outcomes": [], "limit": 50, **which})


def steps(folder: Folder, read: Callable[[sqlite3.Cursor], Any]) -> int:
    """How much SQLite does for a page, in hundreds of the steps of its machine."""
    done = 0

    def step() -> int:
        nonlocal done
        done += 1
        return 0

    with contextlib.closing(connect(folder.database, "read")) as connection:
        connection.set_progress_handler(step, 100)
        read(connection.cursor())
    return done


@pytest.mark.parametrize("name", READS)
def test_a_page_takes_no_longer_in_a_larger_store(larges: dict[int, Folder], name: str) -> None:
    less, more = (steps(larges[num], READS[name]) for num in SIZES)
    assert more <= 1.2 * less + 5, f"{more} steps for {SIZES[1]} rows, {less} for {SIZES[0]}"


# Nouns with all that belongs to them


def test_a_question_comes_with_what_was_given_and_what_became_of_it(site: Site) -> None:
    nodes, failures = rows(site.folder, "node"), rows(site.folder, "failure")
    trajectories = rows(site.folder, "trajectory")
    for row in rows(site.folder, "question"):
        found, given = site.get(f"/api/questions/{row['id']}"), json.loads
        assert (found["choices"], found["aliases"], found["meta"]) == tuple(given(row[k]) for k in ("choices", "aliases", "meta"))
        assert (found["context"], found["source"]) == (row["context"], row["source"])
        assert found["nodes"] == Counter(node["state"] for node in nodes if node["question"] == row["id"])
        assert found["failures"] == sum(failure["subject"] == row["id"] for failure in failures)
        own = [each for each in trajectories if each["question"] == row["id"]]
        computed = {"trajectories": len(own), "best_score": next((each["score"] for each in own if each["best"]), None)}
        assert found["line"] == {key: row[key] for key in found["line"] if key not in computed} | computed


def test_a_node_comes_with_its_words_and_the_steps_that_lead_to_it(site: Site) -> None:
    stored = {row["id"]: row for row in rows(site.folder, "node")}
    for row in list(stored.values())[::7]:
        path = [row["id"]]
        while (parent := stored[path[0]]["parent"]) is not None:
            path.insert(0, parent)
        found = site.get(f"/api/nodes/{row['id']}")
        assert found["path"] == path
        assert found["steps"] == [stored[each]["text"] for each in path]
        assert found["logprobs"] == json.loads(row["logprobs"])
        assert {key: found[key] for key in ("question", "text", "prover", "target")} == {
            key: row[key] for key in ("question", "text", "prover", "target")
        }
        (line,) = [each for each in site.all(f"/api/questions/{row['question']}/tree") if each["id"] == row["id"]]
        assert found["line"] == line


def test_a_call_comes_with_what_was_sent_and_what_came_back(site: Site) -> None:
    for row in rows(site.folder, "call")[::9]:
        found = site.get(f"/api/calls/{row['id']}")
        assert (found["request"], found["response"]) == (json.loads(row["request"]), json.loads(row["response"]))
        assert found["line"] in site.all(f"/api/questions/{row['subject']}/calls")


def last_report(reports: list[Row], student: str, trajectory: str) -> Row:
    of = [row for row in reports if (row["student"], row["trajectory"]) == (student, trajectory)]
    return max(of, key=lambda row: row["update"], default={})


REPORTED = ("update", "cross_entropy", "alpha", "adaptability", "consensus", "difficulty", "peer")


def test_a_trajectory_comes_with_its_verdict_rulings_standing_and_whose_lesson_it_is(site: Site) -> None:
    of = {name: rows(site.folder, name) for name in ("verdict", "ruling", "standing", "route", "question", "report")}
    listed = {each["id"]: each for each in site.all("/api/trajectories", limit=500)}
    for row in rows(site.folder, "trajectory"):
        found, line = site.get(f"/api/trajectories/{row['id']}"), listed[row["id"]]
        (verdict,) = [each for each in of["verdict"] if each["trajectory"] == row["id"]]
        (about,) = [each for each in of["question"] if each["id"] == row["question"]]
        assert line == found["line"]
        assert line == {
            **{key: row[key] for key in ("place", "id", "question", "origin", "style", "score", "answer", "completion_tokens")},
            "position": about["position"],
            "teachers": json.loads(row["teachers"]),
            "best": bool(row["best"]),
            "outcome": verdict["outcome"],
            "reason": verdict["reason"],
            "cost": row["cost"],
            "opening": row["text"][:TITLE],
        }
        whole = ("text", "conclusion", "where", "target")
        assert {key: found[key] for key in whole} == {key: row[key] for key in whole}
        assert found["nodes"] == json.loads(row["nodes"])
        rulings = sorted((each for each in of["ruling"] if each["trajectory"] == row["id"]), key=lambda each: each["judge"])
        assert [(each["judge"], each["ruled"], each["reason"]) for each in found["rulings"]] == [
            (each["judge"], each["ruled"], each["reason"]) for each in rulings
        ]
        standing = next((each for each in of["standing"] if each["trajectory"] == row["id"]), None)
        assert (found["standing"] is None) == (standing is None)
        if standing:
            assert found["standing"] == {key: standing[key] for key in found["standing"]}
        routes = sorted(
            (each for each in of["route"] if each["trajectory"] == row["id"]), key=lambda each: (each["student"], each["round"])
        )
        expected = [
            {key: each[key] for key in ("student", "round", "gate", "probability")}
            | {key: last_report(of["report"], each["student"], row["id"]).get(key) for key in REPORTED}
            for each in routes
        ]
        assert found["assigned"] == expected


def test_a_lesson_comes_with_what_the_student_reported_last_of_it(site: Site) -> None:
    for lesson in site.all("/api/students/small/lessons", limit=500)[::5]:
        report = last_report(rows(site.folder, "report"), "small", lesson["trajectory"]["id"])
        assert {key: lesson["assigned"][key] for key in REPORTED} == {key: report.get(key) for key in REPORTED}
        assert lesson["trajectory"] == site.get(f"/api/trajectories/{lesson['trajectory']['id']}")["line"]


def test_the_graph_of_a_question_is_its_consensus_with_verdicts_and_teachers(site: Site) -> None:
    outcomes = {row["trajectory"]: row["outcome"] for row in rows(site.folder, "verdict")}
    stored = {row["question"]: row for row in rows(site.folder, "consensus")}
    assert len(stored) == NUM_SETTLED // 2
    for number in range(NUM_SETTLED):
        about = question(number).id
        if about not in stored:
            assert site.answer(f"/api/questions/{about}/consensus").status_code == 404
            continue
        found, row = site.get(f"/api/questions/{about}/consensus"), stored[about]
        assert found["consensus"]["clusters"] == json.loads(row["clusters"])
        assert found["consensus"]["edges"] == json.loads(row["edges"])
        assert (found["consensus"]["target"], found["consensus"]["target_support"]) == (row["target"], row["target_support"])
        standings = sorted(
            (each for each in rows(site.folder, "standing") if each["question"] == about), key=lambda each: each["trajectory"]
        )
        assert found["consensus"]["standings"] == [
            {key: each[key] for key in each if key not in ("place", "question")} for each in standings
        ]
        own = [each for each in rows(site.folder, "trajectory") if each["question"] == about]
        assert found["outcomes"] == {each["id"]: outcomes[each["id"]] for each in own}
        assert found["teachers"] == {each["id"]: json.loads(each["teachers"]) for each in own}


def test_weights_are_the_direct_means_over_what_was_learnt(site: Site) -> None:
    teachers = {row["id"]: json.loads(row["teachers"])[0] for row in rows(site.folder, "trajectory")}
    for student in STUDENTS:
        of: dict[tuple[int, str], list[Row]] = defaultdict(list)
        for row in rows(site.folder, "report"):
            if row["student"] == student and row["routed"] and row["alpha"] is not None:
                of[row["update"], teachers[row["trajectory"]]].append(row)
        found = site.all(f"/api/students/{student}/weights")
        assert [(each["update"], each["teacher"], each["num"]) for each in found] == [(*key, len(of[key])) for key in sorted(of)]
        for each in found:
            some = of[each["update"], each["teacher"]]
            for key in ("alpha", "cross_entropy"):
                assert each[key] == pytest.approx(sum(row[key] for row in some) / len(some), rel=1e-12)
    assert site.all("/api/students/nobody/weights") == []


def test_weights_of_all_pages_are_those_of_whole_updates(large_site: Site) -> None:
    found = large_site.all("/api/students/small/weights")
    assert [each["update"] for each in found] == sorted(each["update"] for each in found)
    assert sum(each["num"] for each in found) == 2 * SCAN
    sums = Counter(each["update"] for each in found for _ in range(each["num"]))
    assert set(list(sums.values())[:-1]) == {3}
    reports = rows(large_site.folder, "report")
    teachers = {row["id"]: json.loads(row["teachers"])[0] for row in rows(large_site.folder, "trajectory")}
    of: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in reports:
        of[row["update"], teachers[row["trajectory"]]].append(row["alpha"])
    assert {(each["update"], each["teacher"]): each["alpha"] for each in found} == {
        key: pytest.approx(sum(some) / len(some)) for key, some in of.items()
    }


def test_an_update_with_more_reports_than_a_page_looks_at_has_its_whole_mean(tmp_path: Path) -> None:
    folder = large(tmp_path, 2 * SCAN + 10)
    changed(folder, "UPDATE report SET [update] = iif([update] < 10, 1, 2), alpha = [update] / 8192.0")
    with served(folder) as site:
        found = site.all("/api/students/small/weights")
    stored = rows(folder, "report")
    assert Counter({1: 0, 2: 0}) + Counter(row["update"] for row in stored) == Counter(
        each["update"] for each in found for _ in range(each["num"])
    )
    for update in (1, 2):
        means = [(each["alpha"], each["num"]) for each in found if each["update"] == update]
        of = [row["alpha"] for row in stored if row["update"] == update]
        assert sum(alpha * num for alpha, num in means) / len(of) == pytest.approx(sum(of) / len(of))


def test_the_calls_of_a_node_are_those_that_proposed_and_scored_just_it(tmp_path: Path) -> None:
    """Two nodes below each other, whose steps hold what JSON and SQL must quote."""
    about, config = question(0), configured()
    asking = config.asking
    first = node("n1", about, 'Say "so"\\ 100%_\nand\x00é')
    second = node("n2", about, "Then.", parent="n1")
    steps = [first.step.text, second.step.text]

    def call(key: str, agent: str, purpose: Any, prefix: str) -> Call:
        return Call(
            id=key, subject=about.id, agent=agent, engine="one", purpose=purpose, response={}, usage=Usage(), latency_s=0.5,
            request={"turns": "x", "prefix": prefix, "n": 1},
        )  # fmt: skip

    scored = closed_reasoning(steps[0], asking.answer_prefix)
    kept = [
        call("c1", "ann", "propose", open_reasoning(())),
        call("c2", "cy", "propose", open_reasoning(())),
        call("c3", "prover", "score", scored),
        call("c4", "ann", "propose", open_reasoning(steps[:1])),
        call("c5", "ann", "answer", open_reasoning(())),
        call("c6", "prover", "score", closed_reasoning("\n".join(steps), asking.answer_prefix)),
        call("c7", "ann", "score", scored),
    ]

    async def work(store: Store) -> None:
        await begin(store, 1)
        await store.record_advance(Advance(question=about.id, kept=(first,)))
        await store.record_advance(Advance(question=about.id, kept=(second,)))
        await store.record_calls(kept)

    with served(make(tmp_path, work, config), config) as site:
        assert keys(site.get("/api/nodes/n1/calls")) == ["c1", "c3"]
        assert keys(site.get("/api/nodes/n2/calls")) == ["c4", "c6"]
        assert site.answer("/api/nodes/nobody/calls").status_code == 404


def test_a_prompt_is_the_one_whose_hash_was_kept_or_none(tmp_path: Path) -> None:
    config, about = configured(), question(1)
    bob = config.teachers[1].asking
    assert bob
    judged = sampled(about, "t1")
    sent = {
        "ann": prompts.propose(about, (), config.asking),
        "bob": prompts.propose(about, ("### Step 1. So.",), bob),
        "cy": prompts.styled(about, "backward", config.asking),
        "al": prompts.judge(about, judged, config.judging),
    }

    def call(agent: str, request: Mapping[str, Any]) -> Call:
        return Call(
            id=content_id(agent), subject=about.id, agent=agent, engine="one", purpose="judge" if agent == "al" else "propose",
            request=request, response={}, usage=Usage(), latency_s=0.5,
        )  # fmt: skip

    kept = [call(agent, {"turns": turns_hash(each.messages), "prefix": each.prefix}) for agent, each in sent.items()]
    kept.append(call("lost", {"turns": turns_hash(()), "prefix": "as it was"}))

    async def work(store: Store) -> None:
        await begin(store, 2)
        await store.settle_question(
            about.id, QuestionState.UNSOLVED, "no", [judged], [Verdict(trajectory="t1", outcome=Outcome.UNSOUND, reason="")], [],
            rulings=[Ruling(trajectory="t1", judge="al", ruled="invalid", reason="no")],
        )  # fmt: skip
        await store.record_calls(kept)

    with served(make(tmp_path, work, config), config) as site:
        for agent, each in sent.items():
            found = site.get(f"/api/calls/{content_id(agent)}/prompt")
            assert found["turns"] == [{"role": turn.role, "content": turn.content} for turn in each.messages], agent
            assert found["prefix"] == each.prefix
        assert site.get(f"/api/calls/{content_id('lost')}/prompt") == {"turns": [], "prefix": "as it was"}


@pytest.mark.parametrize(
    "path",
    ["questions/{}", "questions/{}/consensus", "nodes/{}", "nodes/{}/calls", "calls/{}", "calls/{}/prompt", "trajectories/{}"],
)
@pytest.mark.parametrize("id", ["nobody", "0" * 64, "%00", "..%5c", "'%20OR%201=1", "%F0%9F%A7%AE"])
def test_an_id_that_nobody_has_is_not_found_and_is_said_so(site: Site, path: str, id: str) -> None:
    answer = site.answer(f"/api/{path.format(id)}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json().keys() == {"detail"}
    assert "of this id is in the store" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["questions/nobody/tree", "questions/nobody/calls", "students/nobody/metrics"])
def test_a_list_about_nobody_is_empty(site: Site, path: str) -> None:
    assert site.get(f"/api/{path}") == {"items": [], "next": None}


# The run at a glance


def test_the_view_of_the_run_is_what_a_recount_over_the_rows_gives(site: Site, view: Mapping[str, Any]) -> None:
    counted = recounted(site.folder)
    assert counts_in(site.folder) == counted

    def under(prefix: str) -> dict[str, int]:
        return {name.removeprefix(prefix): value for name, value in counted.items() if name.startswith(prefix)}

    assert {state: num for state, num in view["questions"].items() if num} == under("questions.")
    for name in ("unsolved", "nodes", "trajectories", "tokens"):
        assert view[name] == under(f"{name}."), name
    assert view["failures"] == under("failed.")
    assert {judge: sum(of.values()) for judge, of in view["rulings"].items()} == {
        judge: sum(row["judge"] == judge for row in rows(site.folder, "ruling")) for judge in JUDGES
    }
    assert view["balance"] is True
    assert (view["accepted"], view["wanted"]) == (counted["trajectories.accepted"], 100)
    assert view["misleading"] == counted["standings.misleading"]
    assert view["mean_score"] == pytest.approx(counted["score.billionths"] / 1e9 / counted["score.count"])
    assert (view["calls"], view["calls_reused"]) == (len(rows(site.folder, "call")), counted["calls.reused"])
    assert view["usd"] == pytest.approx(sum(row["cost"] or 0.0 for row in rows(site.folder, "call")))
    assert (view["cap_usd"], view["cap_tokens"]) == (30.0, 10**6)
    assert view["seq"] == len(rows(site.folder, "event"))
    assert site.get("/api/counts") == {row["name"]: row["value"] for row in rows(site.folder, "count")}


def test_the_view_of_the_run_tells_of_each_agent_what_it_did(site: Site, view: Mapping[str, Any]) -> None:
    counted = recounted(site.folder)
    agents = {each["name"]: each for each in view["agents"]}
    assert list(agents) == [*TEACHERS, "prover", *JUDGES]
    assert [each["role"] for each in agents.values()] == ["teacher"] * 3 + ["prover"] + ["judge"] * 2
    for name, agent in agents.items():
        assert agent["calls"] == counted[f"spent.calls.{name}"]
        assert agent["tokens"] == counted[f"spent.tokens.{name}"]
        assert agent["usd"] == counted[f"spent.billionths.{name}"] / 1e9
    assert agents["bob"]["usd"] > 0
    assert (agents["bob"]["cap_usd"], agents["ann"]["cap_usd"]) == (2.0, None)
    for third in THIRDS:
        assert sum(agents[name]["won"][third] for name in TEACHERS) == pytest.approx(1.0)
        all_of = sum(counted[f"won.{third}.{name}"] for name in TEACHERS)
        assert all(agents[name]["won"][third] * all_of == pytest.approx(counted[f"won.{third}.{name}"]) for name in TEACHERS)
    assert all(agents[name]["won"] is None for name in ("prover", *JUDGES))
    assert (agents["bob"]["state"], agents["bob"]["why"]) == ("paused", "by jo <b>")
    assert (agents["cy"]["state"], agents["cy"]["why"]) == ("parked", "it is down")
    assert agents["ann"]["state"] == "asked"


def happened(folder: Folder, table: str, kind: str) -> list[tuple[int, Row]]:
    """Every row of a table with the minute in which it was told of."""
    times = [int(row["time"] // 60) for row in rows(folder, "event") if row["kind"] == kind]
    return list(zip(times, rows(folder, table), strict=True))


def bound_of(latencies: list[float], share: float) -> float | None:
    """The lowest bound of all that this share of the latencies is within."""
    found = (bound for bound in LATENCIES_S if sum(each <= bound for each in latencies) >= share * len(latencies))
    return next(found) if latencies else None


def test_latencies_are_of_all_calls_where_there_was_none_of_late(tmp_path: Path) -> None:
    folder = make(tmp_path, fill, clock=ticking(90_000))
    with served(folder) as site:
        agents = site.get("/api/run")["agents"]
    calls = [row for row in rows(folder, "call") if not row["reused"]]
    assert {agent["recent_calls"] for agent in agents} == {0}
    for key, share in (("latency_p50_s", 0.5), ("latency_p95_s", 0.95)):
        assert {agent["name"]: agent[key] for agent in agents} == {
            agent["name"]: bound_of([call["latency_s"] for call in calls if call["agent"] == agent["name"]], share)
            for agent in agents
        }


def test_what_is_recent_is_what_happened_in_the_last_minutes(site: Site, view: Mapping[str, Any]) -> None:
    since = int(view["now"] // 60) - pace.RECENT_MIN
    began = max(view["started_at"], 60 * (since + 1))
    assert view["recent_s"] == pytest.approx(view["now"] - began, abs=1)
    ends = [row for row in rows(site.folder, "event") if row["kind"] in ("question_solved", "question_unsolved")]
    settled = sum(row["time"] // 60 > since for row in ends)
    assert settled
    assert view["settled_per_minute"] == pytest.approx(60 * settled / view["recent_s"])
    failed = Counter(row["kind"] for minute, row in happened(site.folder, "failure", "failure") if minute > since)
    assert failed
    assert view["recent_failures"] == failed
    calls = [row for minute, row in happened(site.folder, "call", "call") if minute > since and not row["reused"]]
    assert calls
    assert view["calls_per_minute"] == pytest.approx(60 * len(calls) / view["recent_s"])
    assert view["tokens_per_s"] == pytest.approx(sum(call["completion_tokens"] for call in calls) / view["recent_s"])
    for agent in view["agents"]:
        assert agent["recent_calls"] == sum(call["agent"] == agent["name"] for call in calls)
    for key, share in (("latency_p50_s", 0.5), ("latency_p95_s", 0.95)):
        assert {agent["name"]: agent[key] for agent in view["agents"]} == {
            agent["name"]: bound_of([call["latency_s"] for call in calls if call["agent"] == agent["name"]], share)
            for agent in view["agents"]
        }
    for key, kind in (("solved_at", "question_solved"), ("answered_at", "call")):
        last = max(row["time"] for row in rows(site.folder, "event") if row["kind"] == kind)
        assert view[key] == int(last)


def test_what_the_living_process_tells_is_shown_while_it_is_heard(site: Site, view: Mapping[str, Any]) -> None:
    assert (view["state"], view["pid"], view["in_flight_questions"]) == ("running", PULSE["pid"], 8)
    (searched,) = [each for each in view["stages"] if each["name"] == "search"]
    assert searched == {"name": "search", "seconds": 16.0, "active": True, "done": NUM_SETTLED, "total": NUM_QUESTIONS}
    assert [each["active"] for each in view["stages"]].count(True) == 1
    assert view["engines"] == [{"name": name, **each} for name, each in PULSE["engines"].items()]
    assert view["notes"] == PULSE["notes"]
    students = {each["name"]: each for each in view["students"]}
    assert (students["small"]["updates"], students["small"]["of"], students["tiny"]["of"]) == (24, 40, None)
    routes = rows(site.folder, "route")
    assert all(each["routed"] == sum(r["gate"] for r in routes if r["student"] == name) for name, each in students.items())
    kinds = [each["kind"] for each in view["alerts"]]
    assert kinds.count("parked") == 2  # cy and jo, whose engine it is; bob is paused
    assert kinds.count("paused") == 1
    assert view["controls"] is False


@pytest.mark.parametrize("ends", ["finished", "interrupted", "killed", "paused"])
def test_the_state_of_the_run_is_told_as_it_is(tmp_path: Path, ends: Any) -> None:
    async def work(store: Store) -> None:
        await begin(store, 2)
        await store.beat("run", {**PULSE, "paused": {"": "jo"} if ends == "paused" else {}})
        if ends in ("finished", "interrupted"):
            await store.beat("run", None)
            await store.end_run(ends)

    folder = make(tmp_path, work)
    if ends == "killed":
        changed(folder, f"UPDATE pulse SET beat_at = {time.time() - 60}")
    with served(folder) as site:
        view = site.get("/api/run")
    assert view["state"] == ("lost" if ends == "killed" else ends)
    assert ("lost" in [each["kind"] for each in view["alerts"]]) == (ends == "killed")
    assert (view["finished_at"] is None) == (ends in ("killed", "paused"))
    assert (view["pid"] is None) == (ends != "paused")
    assert view["notes"] == (PULSE["notes"] if ends == "paused" else [])


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE count SET value = -1 WHERE name = 'nodes.kept'",
        "UPDATE count SET value = value + 1 WHERE name = 'questions.unsolved'",
        "DELETE FROM count WHERE name LIKE 'unsolved.%'",
    ],
)
def test_counts_that_do_not_add_up_are_said_to(tmp_path: Path, wrong: str) -> None:
    async def work(store: Store) -> None:
        await begin(store, 2)
        for number in range(2):
            await settle(store, number, Random(number))

    folder = make(tmp_path, work)
    changed(folder, wrong)
    with served(folder) as site:
        assert site.get("/api/run")["balance"] is False


@pytest.mark.parametrize("points", [1, 2, 7, 120, 1000])
def test_the_sums_of_the_history_are_the_counts(site: Site, points: int) -> None:
    names = (
        "questions.solved",
        "questions.unsolved",
        "trajectories.accepted",
        "tokens.prompt",
        "spent.calls.ann",
        "failed.Refused",
    )
    found = site.get("/api/history", name=names, points=points)
    counted, sums = recounted(site.folder), Counter()
    for each in found:
        sums[each["name"]] += each["value"]
    assert sums == Counter({name: counted[name] for name in names})
    times = sorted({each["time"] for each in found})
    assert len(times) <= points
    spans = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert all(span % 60 == 0 and span % min(spans) == 0 for span in spans)
    assert found == sorted(found, key=lambda each: (each["time"], each["name"]))


def test_the_history_since_a_time_is_the_minutes_from_then_on(site: Site) -> None:
    minutes = rows(site.folder, "history")
    since = sorted(row["minute_at"] for row in minutes)[len(minutes) // 2]
    found = site.get("/api/history", name=["questions.solved", "tokens.prompt"], since=60 * since + 30, points=1000)
    expected = [row for row in minutes if row["name"] in ("questions.solved", "tokens.prompt") and row["minute_at"] >= since]
    assert {(each["name"], each["time"], each["value"]) for each in found} == {
        (row["name"], 60 * row["minute_at"], row["value"]) for row in expected
    }
    assert site.get("/api/history", name=["questions.solved"], since=2**40) == []


def test_the_accuracies_and_the_summary_are_what_the_command_line_tells(site: Site) -> None:
    told = written(site.folder, lambda store: summarise(site.config, site.folder, store), create=False, read_only=True)
    found = site.get("/api/summary")
    assert found == json.loads(json.dumps(told))
    assert site.get("/status") == found
    assert site.get("/api/accuracy") == found["accuracy"]
    assert {each["model"] for each in found["accuracy"]} == {*STUDENTS, *TEACHERS}


def test_the_run_is_told_while_accuracies_are_computed(tmp_path: Path) -> None:
    """Their intervals take a second over a thousand questions."""
    folder = make(tmp_path, lambda store: begin(store, 1))
    models = ", ".join(f"('{name}@{when}')" for name in STUDENTS for when in ("before", "after"))
    many = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1499)"
    columns = "id, model, question, sample, text, correct, prompt_tokens, completion_tokens, cached_tokens"
    changed(
        folder,
        f"{many} INSERT INTO question (id, split, position, text, kind, choices, aliases, source, meta, state, reason) "
        "SELECT printf('h%d', i), 'held_out', i, '', 'math', '[]', '[]', '', '{}', 'pending', '' FROM n",
        f"{many}, m(model) AS (VALUES {models}), s(sample) AS (VALUES (0), (1), (2)) INSERT INTO attempt ({columns}) "
        "SELECT printf('%s %d %d', model, i, sample), model, printf('h%d', i), sample, '', i % 3 = 0, 1, 1, 0 FROM n, m, s",
        "INSERT INTO count (name, value) VALUES ('attempts.small@before', 4500)",
    )
    ends: list[str] = []

    def ask(site: Site, path: str) -> None:
        assert httpx.get(f"{site.url}{path}", timeout=60).status_code == 200
        ends.append(path)

    with served(folder) as site:
        slow = threading.Thread(target=ask, args=(site, "/api/accuracy"))
        slow.start()
        time.sleep(0.1)
        ask(site, "/api/run")
        ask(site, "/readyz")
        slow.join()
        assert ends == ["/api/run", "/readyz", "/api/accuracy"]
        assert {row["model"] for row in site.get("/api/accuracy")} == set(STUDENTS)


def test_the_gates_are_how_often_each_was_open_and_shut(site: Site) -> None:
    styles = {row["id"]: row["style"] or "search" for row in rows(site.folder, "trajectory")}
    counted = Counter(
        (row["student"], row["round"], styles[row["trajectory"]], row["gate"]) for row in rows(site.folder, "route")
    )
    found = site.get("/api/gates")
    assert len(found) == len({key[:3] for key in counted})
    for each in found:
        key = each["student"], each["round"], each["style"]
        assert (each["open"], each["shut"]) == (counted[*key, 1], counted[*key, 0])


def test_a_store_in_which_no_run_has_begun_says_so(tmp_path: Path) -> None:
    async def nothing(store: Store) -> None:
        pass

    with served(make(tmp_path, nothing)) as site:
        for path in ("/api/run", "/readyz", "/metrics"):
            answer = site.answer(path)
            assert (answer.status_code, answer.json()) == (503, {"detail": "no run has begun in this store yet"})
        assert site.get("/healthz") == {"status": "ok"}
        assert site.get("/api/questions") == {"items": [], "next": None}
        assert site.get("/api/summary")["state"] == "unknown"
        assert site.get("/api/history", name=["questions.solved"]) == []


@pytest.mark.parametrize("beside_run", [True, False])
def test_no_answer_waits_for_an_acknowledgement_of_its_beginning(site: Site, beside_run: bool) -> None:
    """Nagle's algorithm, 44 ms an answer (measured); asyncio switches it off for sockets that say that they speak TCP."""
    app = application(site.config, site.folder, http=Http(), token=None, controls=False)
    with listening(app, Http(), beside_run=beside_run) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        took = sorted(client.get("/healthz").elapsed.total_seconds() for _ in range(20))
    assert took[5] < 0.03


# While it is written


WRITE = """if True:
    import asyncio, random, sys
    from pathlib import Path
    from inspected import begin, failure, settle
    from store.store import open_store

    async def main():
        async with open_store(Path(sys.argv[1])) as store:
            print("begun", flush=True)
            for number in range(int(sys.argv[2])):
                await settle(store, number, random.Random(number))
                await store.record_failure(failure(number))

    asyncio.run(main())
"""


def test_pages_of_a_store_that_another_process_writes_are_each_of_one_moment(tmp_path: Path) -> None:
    num = 100
    folder = make(tmp_path, lambda store: begin(store, num))
    environment = {"PYTHONPATH": f"{TESTS.parents[1]}:{TESTS}"}
    command = [sys.executable, "-c", WRITE, str(folder.database), str(num)]
    with served(folder) as site, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"begun\n"
        looks, last = 0, 0
        while writer.poll() is None:
            last = is_of_one_moment(site, num, last)
            looks += 1
        assert writer.returncode == 0
        assert looks > 5
        is_of_one_moment(site, num, last)
        assert recounted(folder) == counts_in(folder)
        assert +Counter(site.get("/api/counts")) == recounted(folder)


def is_of_one_moment(site: Site, num: int, last: int) -> int:
    counts = Counter(site.get("/api/counts"))
    settled = counts["questions.solved"] + counts["questions.unsolved"]
    assert settled + counts["questions.pending"] == num
    assert sum(value for name, value in counts.items() if name.startswith("trajectories.")) == 4 * settled
    assert sum(value for name, value in counts.items() if name.startswith("unsolved.")) == counts["questions.unsolved"]
    view = site.get("/api/run")
    assert view["balance"]
    assert view["seq"] >= last
    before = {row["id"] for row in rows(site.folder, "trajectory")}
    found = site.all("/api/trajectories", limit=40)
    assert before <= set(keys(found))
    assert len(set(keys(found))) == len(found)
    assert all(each["outcome"] for each in found)
    listed = site.all("/api/questions", limit=40)
    assert keys(listed) == [question(number).id for number in range(num)]
    for each in listed:
        over = each["state"] in ("solved", "unsolved")
        assert (each["trajectories"], each["best_score"] is not None, bool(each["reason"])) == (4 * over, over, over)
    for each in listed[:: num // 5]:
        nodes = site.get(f"/api/questions/{each['id']}")["nodes"]
        assert not ("open" in nodes and "finished" in nodes)
    return view["seq"]
