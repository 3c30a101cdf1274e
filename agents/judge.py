"""A judge rules whether a reasoning is sound (QR-Distill: filtering by another model than any student).

Invariant: only what the judge itself writes is read, and only as one JSON object of the configured schema: what the judged text
says never counts as a ruling, nor does an answer that holds two different ones. A ruling that cannot be read is asked for once
more, and then is UNREADABLE. Temperature 0. Not covered: how rulings are counted (`orchestrator.sift`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry

from agents import prompts
from agents.ledger import Ledger, Model
from configs import schema
from store.types import Question, Ruled, Ruling, Trajectory

LONGEST_REASON = 2000
"""Characters of a reason that are kept."""
MOST_OBJECTS = 64
"""Openings of an object that are looked at in one answer."""
_THINK_CLOSE = "</think>"


class Judge:
    """One judge of a run."""

    def __init__(self, *, config: schema.Judge, model: Model, judging: schema.Judging) -> None:
        self.name = config.name
        self.model = model
        self._judging = judging
        self._validator = Draft202012Validator(judging.ruling_schema, registry=Registry())  # which fetches nothing

    async def rule(self, ledger: Ledger, question: Question, trajectory: Trajectory) -> Ruling:
        """The ruling on a trajectory. Raises `EngineError` when the engine cannot answer; waits while it is parked."""
        unreadable = None
        for tries in (1, 2):
            (completion,) = await ledger.generate(
                self.model,
                "judge",
                prompts.judge(question, trajectory, self._judging, unreadable),
                agent=self.name,
                n=1,
                max_tokens=self._judging.max_tokens,
                stop=(),
                temperature=0.0,
                top_p=1.0,
                seed=0,
            )
            if found := self.read(completion.text):
                ruled: Ruled = "valid" if found["ruling"] == "VALID" else "invalid"
                return self._ruling(trajectory, ruled, str(found["reason"]), found, tries)
            unreadable = completion.text
        return self._ruling(trajectory, "unreadable", f"not a ruling: {unreadable}", {}, 2)

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The one ruling that an answer holds; None where there is none, or where two differ."""
        found = [each for each in _objects(text.rpartition(_THINK_CLOSE)[2]) if self._validator.is_valid(each)]
        return found[-1] if found and len({each["ruling"] for each in found}) == 1 else None

    def _ruling(self, trajectory: Trajectory, ruled: Ruled, reason: str, details: Mapping[str, Any], tries: int) -> Ruling:
        short = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
        return Ruling(trajectory=trajectory.id, judge=self.name, ruled=ruled, reason=short, details=details, tries=tries)


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects that stand in a text, outermost ones only."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(MOST_OBJECTS):
        if (at := text.find("{", at)) < 0:
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))  # half characters have no place
