"""How a question's work ends, and is taken back: its trajectories and all that is said of them, with their counts.

Invariant: a settlement is whole or not there, the first one stands, and to take it back leaves what would be there without
it. Not covered: the question's tree while it grows (`writes.py`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

from sqlalchemy import bindparam, delete, select, update

from store import learning, tables
from store.database import StoreError
from store.rows import Columns
from store.splits import TRAIN
from store.tables import table
from store.types import Outcome, QuestionState
from store.writer import Transaction
from store.writes import TERMINAL, move_question, new, record_advance

SCORE_UNIT = 10**9
"""Scores are summed as whole billionths, so that the sum does not depend on the order."""

THIRDS = ("early", "middle", "late")
"""Of the steps of a chosen path."""

_run, _question, _node = table(tables.RunRow), table(tables.QuestionRow), table(tables.NodeRow)
_trajectory, _verdict, _ruling = table(tables.TrajectoryRow), table(tables.VerdictRow), table(tables.RulingRow)
_consensus, _standing, _failure = table(tables.ConsensusRow), table(tables.StandingRow), table(tables.FailureRow)

_NEW_TRAJECTORY, _NEW_VERDICT, _NEW_RULING = new(tables.TrajectoryRow), new(tables.VerdictRow), new(tables.RulingRow)
_NEW_CONSENSUS, _NEW_STANDING = new(tables.ConsensusRow), new(tables.StandingRow)

_KEY = bindparam("key")
_QUESTION = select(_question.c.state, _question.c.reason, _question.c.split).where(_question.c.id == _KEY)
_AUTHOR = select(_node.c.author).where(_node.c.id == _KEY)
_OF_QUESTION = select(_trajectory.c.id, _trajectory.c.nodes, _trajectory.c.best).where(_trajectory.c.question == _KEY)
_ITS = select(_trajectory.c.id).where(_trajectory.c.question == _KEY).scalar_subquery()
_VERDICTS = select(_verdict).where(_verdict.c.trajectory.in_(_ITS))
_RULINGS = select(_ruling).where(_ruling.c.trajectory.in_(_ITS))
_MISLEADING = select(_standing.c.trajectory).where(_standing.c.question == _KEY, _standing.c.misleading)
_GRAPHS = select(_consensus.c.target).where(_consensus.c.question == _KEY)
_NODES = select(_node.c.state).where(_node.c.question == _KEY)
_DROPS = (
    delete(_standing).where(_standing.c.question == _KEY),
    delete(_consensus).where(_consensus.c.question == _KEY),
    delete(_ruling).where(_ruling.c.trajectory.in_(_ITS)),
    delete(_verdict).where(_verdict.c.trajectory.in_(_ITS)),
    delete(_trajectory).where(_trajectory.c.question == _KEY),
    delete(_node).where(_node.c.question == _KEY),
)
_LIFT_QUARANTINE = update(_failure).values(request="").where(_failure.c.subject == _KEY, _failure.c.kind == "Quarantined")
_GOES_ON = update(_run).values(state="interrupted", finished_at=bindparam("at")).where(_run.c.state == "finished")


def settle_question(
    tx: Transaction,
    question: str,
    state: QuestionState,
    reason: str,
    trajectories: Sequence[Columns],
    verdicts: Sequence[Columns],
    routes: Sequence[Columns],
    rulings: Sequence[Columns],
    consensus: tuple[Columns, Sequence[Columns]] | None,
    tree: tuple[Sequence[Columns], Sequence[str]] | None,
) -> bool:
    """End a question's work, all at once; False if it had been settled before, and then nothing changes."""
    found = tx.rows(_QUESTION, {"key": question})
    if not found:
        raise StoreError(f"question {question} is not in the store")
    before = QuestionState(found[0]["state"])
    if before in TERMINAL:
        return False
    if tree is not None:
        record_advance(tx, question, *tree)
    _add_trajectories(tx, trajectories, verdicts)
    _add_rulings(tx, rulings, verdicts)
    if consensus is not None:
        _add_consensus(tx, *consensus)
    learning.add_routes(tx, routes)
    move_question(tx, question, before, state, why=reason)
    if state is QuestionState.UNSOLVED:
        tx.count(f"unsolved.{reason.partition(':')[0]}")
    tx.event(f"question_{state.value}", question)
    return True


def _add_trajectories(tx: Transaction, trajectories: Sequence[Columns], verdicts: Sequence[Columns]) -> None:
    for row in trajectories:
        if tx.change(_NEW_TRAJECTORY, row):
            tx.event("trajectory", row["id"])
            _count_wins(tx, row)
    scores = {row["id"]: row["score"] for row in trajectories}
    for row in verdicts:
        if tx.change(_NEW_VERDICT, row):
            tx.event("verdict", row["trajectory"])
            tx.count(f"trajectories.{row['outcome']}")
            score = scores.get(row["trajectory"])
            if row["outcome"] == Outcome.ACCEPTED.value and score is not None:
                tx.count("score.count")
                tx.count("score.billionths", round(score * SCORE_UNIT))


def _count_wins(tx: Transaction, trajectory: Columns, sign: int = 1) -> None:
    """Whose steps were chosen, early, in the middle and late on the way."""
    path = json.loads(trajectory["nodes"]) if trajectory["best"] else []
    for place, node in enumerate(path):
        for found in tx.rows(_AUTHOR, {"key": node}):
            tx.count(f"won.{THIRDS[3 * place // len(path)]}.{found['author']}", sign)


def _add_rulings(tx: Transaction, rulings: Sequence[Columns], verdicts: Sequence[Columns]) -> None:
    new_ones = [row for row in rulings if tx.change(_NEW_RULING, row)]
    for row in new_ones:
        tx.event("ruling", row["trajectory"])
    _count_rulings(tx, new_ones, verdicts)


def _count_rulings(tx: Transaction, rulings: Sequence[Columns], verdicts: Sequence[Columns], sign: int = 1) -> None:
    """Each by judge, against the answer check, and by pairs of judges."""
    known = {row["trajectory"]: row for row in verdicts}
    for row in rulings:
        tx.count(f"rulings.{row['ruled']}.{row['judge']}", sign)
    readable = sorted((row for row in rulings if row["ruled"] != "unreadable"), key=lambda row: (row["trajectory"], row["judge"]))
    for row in readable:
        verdict = known[row["trajectory"]]
        if verdict["target"] is not None:
            check = "wrong" if verdict["outcome"] == Outcome.WRONG_ANSWER.value else "right"
            tx.count(f"checked.{row['ruled']}.{check}.{row['judge']}", sign)
    for _, panel in itertools.groupby(readable, key=lambda row: row["trajectory"]):
        for one, other in itertools.combinations(panel, 2):
            tx.count(f"votes.{one['ruled']}.{other['ruled']}.{one['judge']}/{other['judge']}", sign)


def _add_consensus(tx: Transaction, graph: Columns, standings: Sequence[Columns]) -> None:
    if not tx.change(_NEW_CONSENSUS, graph):
        return
    tx.event("consensus", graph["question"])
    if graph["target"] is not None:
        tx.count("targets.consensus")
    for row in standings:
        if tx.change(_NEW_STANDING, row) and row["misleading"]:
            tx.count("standings.misleading")


def requeue_question(tx: Transaction, question: str) -> None:
    """Take back an unsolved question's end, tree included: it is pending, and nothing that failed is in quarantine.

    Its calls stay, so that what was answered is not asked again; a run that had finished goes on. Raises `StoreError`.
    """
    found = tx.rows(_QUESTION, {"key": question})
    if not found or found[0]["split"] != TRAIN:
        raise StoreError(f"no question to learn from has the id {question!r}")
    if (state := found[0]["state"]) != QuestionState.UNSOLVED.value:
        raise StoreError(f"question {question} is {state}; only one that is unsolved can be requeued")
    key = {"key": question}
    verdicts = [dict(row) for row in tx.rows(_VERDICTS, key)]
    for row in tx.rows(_OF_QUESTION, key):
        _count_wins(tx, dict(row), -1)
    _count_rulings(tx, [dict(row) for row in tx.rows(_RULINGS, key)], verdicts, -1)
    for row in verdicts:
        tx.count(f"trajectories.{row['outcome']}", -1)
    for row in tx.rows(_GRAPHS, key):
        if row["target"] is not None:
            tx.count("targets.consensus", -1)
    tx.count("standings.misleading", -len(tx.rows(_MISLEADING, key)))
    for row in tx.rows(_NODES, key):
        tx.count(f"nodes.{row['state']}", -1)
    for drop in _DROPS:
        tx.change(drop, key)
    tx.change(_LIFT_QUARANTINE, key)
    move_question(tx, question, state, QuestionState.PENDING)
    tx.count(f"unsolved.{found[0]['reason'].partition(':')[0]}", -1)
    tx.change(_GOES_ON, {"at": None})
    tx.event("question_requeued", question)
