"""A judge rules whether a reasoning is sound (QR-Distill: filtering by another model than any student).

Invariant: only what the judge itself writes is read, and only as one JSON object of the configured schema: what the judged text
says never counts as a ruling, nor does an answer that holds two different ones or that was cut. A ruling that cannot be read is
asked for once more, and then is UNREADABLE. Temperature 0. Not covered: how rulings are counted (`orchestrator.sift`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry

from agents import prompts
from agents.ledger import Ledger, Model
from configs import schema
from store.types import Question, Ruled, Ruling, Trajectory

LONGEST_REASON = 2000
"""Characters of a reason that are kept."""
MOST_OBJECTS = 256
"""Openings of an object that are looked at in one answer; one with more cannot be read."""
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_SAID = re.compile(r'"ruling"\s*:\s*"(VALID|INVALID)"')
_OPENING = re.compile(r'\{\s*"')


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
            found = self.read(completion.text) if completion.finish != "length" else None  # a draft may be all that it got to
            if found:
                ruled: Ruled = "valid" if found["ruling"] == "VALID" else "invalid"
                return self._ruling(trajectory, ruled, str(found["reason"]), found, tries)
            unreadable = completion.text
        return self._ruling(trajectory, "unreadable", f"not a ruling: {unreadable}", {}, 2)

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The one ruling that an answer holds; None where there is none, or where two differ."""
        try:
            found = [each for each in _objects(text) if self._validator.is_valid(each)]
        except (ValueError, RecursionError):
            return None
        answer = text.rpartition(_THINK_CLOSE)[2]
        said = {each["ruling"] for each in found} | set(_SAID.findall(answer))  # one that is quoted badly makes no object
        return found[-1] if found and len(said) == 1 and _THINK_OPEN not in answer else None

    def _ruling(self, trajectory: Trajectory, ruled: Ruled, reason: str, details: Mapping[str, Any], tries: int) -> Ruling:
        short = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + " ..."
        return Ruling(trajectory=trajectory.id, judge=self.name, ruled=ruled, reason=short, details=details, tries=tries)


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects that stand in a text, outermost ones only, without those of a thought that was closed.

    What stands in an object that breaks off is part of it, and no object of its own. Raises `ValueError`, or `RecursionError`,
    where there are too many, or one cannot be held: it names a key twice, or is nested too deeply.
    """
    decoder, at, thought = json.JSONDecoder(object_pairs_hook=_named_once), 0, text.rfind(_THINK_CLOSE)
    for _ in range(MOST_OBJECTS):
        if not (opening := _OPENING.search(text, at)):
            return
        try:
            found, at = decoder.raw_decode(text, opening.start())
        except json.JSONDecodeError as error:
            at = max(error.pos, opening.end() - 1)
            if opening.start() < thought < at:
                at = thought
            continue
        if at > thought:  # one that goes over it speaks of the mark
            written = json.dumps(found, ensure_ascii=False, allow_nan=False)
            yield json.loads(written.encode("utf-8", "replace"))  # half characters have no place
    if _OPENING.search(text, at):
        raise ValueError("too many objects")


def _named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is named twice")
    return found
