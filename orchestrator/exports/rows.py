"""The rows of exports: nouns in, JSON-ready objects out, with the columns of `columns.py`. Pure.

Invariant: a model's text is only ever a value: it is never a key, a role or a place. Not covered: files (`export.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.exports.pairs import Pair
from orchestrator.exports.preferences import Preference
from orchestrator.search import Tree
from store.reasoning import THINK_CLOSE, THINK_OPEN, Segmentation, joined, response, user_text
from store.store import Judged
from store.types import Node, Question, Ruling, Standing, Trajectory, Usage, Verdict

Row = dict[str, Any]
Turns = list[dict[str, str]]


def messages_row(judged: Judged, system: str | None) -> Row:
    """A trajectory as chat turns."""
    return {"messages": [*_prompt(judged.question, system), *_answer(judged.trajectory)], **_facts(judged)}


def sharegpt_row(judged: Judged, system: str | None) -> Row:
    """A trajectory in ShareGPT's form."""
    said = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [*_prompt(judged.question, system), *_answer(judged.trajectory)]
    return {"conversations": [{"from": said[turn["role"]], "value": turn["content"]} for turn in turns], **_facts(judged)}


def alpaca_row(judged: Judged, system: str | None) -> Row:
    """A trajectory in Alpaca's form: the context of its question is the input."""
    return {
        **({"system": system} if system else {}),
        "instruction": user_text(replace(judged.question, context=None)),
        "input": judged.question.context or "",
        "output": response(judged.trajectory.text, judged.trajectory.conclusion),
        **_facts(judged),
    }


def pair_row(pair: Pair, system: str | None) -> Row:
    """Two trajectories in the conversational form that trainers of preferences read."""
    question, chosen, rejected = pair.chosen.question, pair.chosen.trajectory, pair.rejected.trajectory
    scored = chosen.score is not None and rejected.score is not None
    return {
        "question": question.id,
        "source": question.source,
        "kind": question.kind,
        "gold": question.answer,
        "prompt": _prompt(question, system),
        "chosen": _answer(chosen),
        "rejected": _answer(rejected),
        **_target(pair.chosen),
        "margin": (chosen.score or 0.0) - (rejected.score or 0.0) if scored else None,
        **_side("chosen", pair.chosen),
        **_side("rejected", pair.rejected),
    }


def preference_row(tree: Tree, preference: Preference, system: str | None, segmentation: Segmentation) -> Row:
    """Two steps in the same form: both sides repeat the steps that they share."""
    question, parent = tree.question, preference.chosen.parent

    def side(node: Node) -> Turns:
        text = THINK_OPEN + joined([*tree.steps(parent), node.step.text], segmentation)
        closing = THINK_CLOSE.rstrip() if node.step.finish == "closed" else ""
        return [{"role": "assistant", "content": text + closing}]

    return {
        "question": question.id,
        "source": question.source,
        "prompt": _prompt(question, system),
        "chosen": side(preference.chosen),
        "rejected": side(preference.rejected),
        "shared": joined(tree.steps(parent), segmentation),
        "step": preference.chosen.depth,
        "chosen_score": preference.chosen.score.value,
        "rejected_score": preference.rejected.score.value,
        "margin": preference.margin,
        "target": preference.chosen.score.target,
        "chosen_authors": list(preference.chosen.authors),
        "rejected_authors": list(preference.rejected.authors),
    }


def node_row(node: Node) -> Row:
    """A step that was proposed: by whom, its score, what became of it and why, what it cost."""
    return {
        "id": node.id,
        "question": node.question,
        "parent": node.parent,
        "depth": node.depth,
        "text": node.step.text,
        "finish": node.step.finish,
        "authors": list(node.authors),
        "score": node.score.value,
        "prover": node.score.prover,
        "target": node.score.target,
        "state": node.state.value,
        "rank": node.rank,
        "reason": node.reason,
        "tokens": _tokens(node.usage),
        "cost": node.cost,
    }


def _prompt(question: Question, system: str | None) -> Turns:
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": user_text(question)}]


def _answer(trajectory: Trajectory) -> Turns:
    return [{"role": "assistant", "content": response(trajectory.text, trajectory.conclusion)}]


def _facts(judged: Judged) -> Row:
    question, trajectory = judged.question, judged.trajectory
    return {
        "id": trajectory.id,
        "question": question.id,
        "source": question.source,
        "kind": question.kind,
        "gold": question.answer,
        "answer": trajectory.answer,
        "where": trajectory.where,
        **_target(judged),
        **_verdict(judged.verdict),
        "origin": trajectory.origin,
        "style": trajectory.style,
        "best": trajectory.best,
        "score": trajectory.score,
        "score_target": trajectory.target,
        "teachers": list(trajectory.teachers),
        "steps": _steps(trajectory, judged.nodes),
        "consensus": _consensus(judged.standing),
        "rulings": _rulings(judged.rulings),
        "tokens": _tokens(trajectory.usage),
        "cost": trajectory.cost,
    }


def _side(side: str, judged: Judged) -> Row:
    trajectory = judged.trajectory
    facts = {
        "id": trajectory.id,
        "answer": trajectory.answer,
        **_verdict(judged.verdict),
        "score": trajectory.score,
        "teachers": list(trajectory.teachers),
        "rulings": _rulings(judged.rulings),
        "consensus": _consensus(judged.standing),
    }
    return {f"{side}_{name}": value for name, value in facts.items()}


def _target(judged: Judged) -> Row:
    target = judged.verdict.target if judged.verdict else None
    answers = {"gold": judged.question.answer, "consensus": judged.target}
    return {
        "target": target,
        "target_answer": answers.get(target or ""),
        "target_support": judged.target_support if target == "consensus" else None,
    }


def _verdict(verdict: Verdict | None) -> Row:
    return {"verdict": verdict and verdict.outcome.value, "reason": verdict and verdict.reason}


def _steps(trajectory: Trajectory, nodes: Sequence[Node]) -> list[Row]:
    if not nodes:
        return [{"text": trajectory.text, "authors": list(trajectory.teachers), "score": trajectory.score}]
    return [{"text": node.step.text, "authors": list(node.authors), "score": node.score.value} for node in nodes]


def _consensus(standing: Standing | None) -> Row | None:
    if standing is None:
        return None
    return {
        "support": standing.support,
        "centrality": standing.centrality,
        "nearest": standing.nearest,
        "misleading": standing.misleading,
    }


def _rulings(rulings: Sequence[Ruling]) -> list[Row]:
    return [{"judge": ruling.judge, "ruled": ruling.ruled, "reason": ruling.reason} for ruling in rulings]


def _tokens(usage: Usage) -> Row:
    return {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion}
