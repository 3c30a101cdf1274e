"""What a store's counts have to be."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

Dump = dict[str, list[dict[str, Any]]]


def recounted(dump: Dump) -> Counter[str]:
    """The counts, from the rows alone."""
    train = [row for row in dump["question"] if row["split"] == "train"]
    counts = Counter(f"questions.{row['state']}" for row in train)
    counts.update(f"{row['split']}.questions" for row in dump["question"] if row["split"] != "train")
    counts.update(f"nodes.{row['state']}" for row in dump["node"])
    counts.update(f"trajectories.{row['outcome']}" for row in dump["verdict"])
    counts.update(f"unsolved.{row['reason'].partition(':')[0]}" for row in train if row["state"] == "unsolved")
    counts.update(f"rulings.{row['ruled']}.{row['judge']}" for row in dump["ruling"])
    for one, other in itertools.permutations((row for row in dump["ruling"] if row["ruled"] != "unreadable"), 2):
        if one["trajectory"] == other["trajectory"] and one["judge"] < other["judge"]:
            counts[f"votes.{one['ruled']}.{other['ruled']}.{one['judge']}/{other['judge']}"] += 1
    verdicts = {row["trajectory"]: row for row in dump["verdict"]}
    for row in dump["ruling"]:
        verdict = verdicts[row["trajectory"]]
        if row["ruled"] != "unreadable" and verdict["target"]:
            check = "wrong" if verdict["outcome"] == "wrong_answer" else "right"
            counts[f"checked.{row['ruled']}.{check}.{row['judge']}"] += 1
    counts["targets.consensus"] = sum(row["target"] is not None for row in dump["consensus"])
    counts["standings.misleading"] = sum(row["misleading"] for row in dump["standing"])
    counts.update(f"failures.{row['where']}" for row in dump["failure"])
    counts.update(f"failed.{row['kind']}" for row in dump["failure"])
    counts.update(f"calls.{row['purpose']}" for row in dump["call"])
    styles = {row["id"]: row["style"] or "search" for row in dump["trajectory"]}
    for row in dump["route"]:
        counts[f"routes.{row['student']}"] += row["gate"]
        counts[f"gates.{row['round']}.{row['gate']}.{styles[row['trajectory']]}.{row['student']}"] += 1
    authors = {row["id"]: row["author"] for row in dump["node"]}
    for path in [json.loads(row["nodes"]) for row in dump["trajectory"] if row["best"]]:
        for place, node in enumerate(path):
            if node in authors:
                counts[f"won.{('early', 'middle', 'late')[3 * place // len(path)]}.{authors[node]}"] += 1
    counts.update(f"attempts.{row['model']}" for row in dump["attempt"])
    counts.update(f"reports.{row['student']}" for row in dump["report"])
    paid = [row for row in dump["call"] if not row["reused"]]
    counts["calls.reused"] = len(dump["call"]) - len(paid)
    for kind in ("prompt", "completion", "cached"):
        counts[f"tokens.{kind}"] = sum(row[f"{kind}_tokens"] for row in paid)
    for row in paid:
        counts[f"spent.calls.{row['agent']}"] += 1
        counts[f"spent.tokens.{row['agent']}"] += row["prompt_tokens"] + row["completion_tokens"]
        counts[f"spent.billionths.{row['agent']}"] += round((row["cost"] or 0.0) * 1e9)
    accepted = {row["trajectory"] for row in dump["verdict"] if row["outcome"] == "accepted"}
    scores = [row["score"] for row in dump["trajectory"] if row["id"] in accepted and row["score"] is not None]
    counts["score.count"] = len(scores)
    counts["score.billionths"] = sum(round(score * 1e9) for score in scores)
    return counts
