"""What becomes of a question's trajectories: how more are sampled, who judges them, what their consensus counts for, and how
many are wanted (methods parts 2 and 4).

Not covered: search (`search.py`), the mathematics (`orchestrator.consensus`).
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator

from configs.part import Name, Part, Probability

Style = Literal["plain", "step_by_step", "tree_of_thought", "program", "backward", "recall"]

RUBRIC = (
    "You check reasoning that was written by somebody else. It is VALID only if every step follows from the question or from "
    "earlier steps, no step is wrong, and the steps together support the final answer. It is INVALID if any step is wrong, "
    "made up or missing, if the answer does not follow, or if the answer was reached by luck."
)
RULING_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string", "maxLength": 400}, "ruling": {"enum": ["VALID", "INVALID"]}},
    "required": ["reason", "ruling"],
    "additionalProperties": False,
}


class Sampling(Part):
    """Styled sampling: whole trajectories of each teacher in several styles of reasoning, beside search or instead of it."""

    styles: tuple[Style, ...] = Field(
        default=("plain", "step_by_step", "tree_of_thought", "program", "backward", "recall"), min_length=1
    )
    """"plain"; "step_by_step"; "tree_of_thought": several plans, pick one; "program": pseudo-code; "backward": solve, then verify
    from the answer; "recall": state the facts first."""
    samples: int = Field(default=1, ge=1, le=256)
    """Trajectories of each teacher in each style."""
    temperature: float = Field(default=0.8, ge=0, le=10)
    """Sampling temperature, of all teachers."""
    top_p: Probability = 0.95
    """Nucleus sampling."""

    @field_validator("styles")
    @classmethod
    def _differ(cls, styles: tuple[Style, ...]) -> tuple[Style, ...]:
        if twice := sorted({style for style in styles if styles.count(style) > 1}):
            raise ValueError(f"the style {twice[0]!r} is named twice; styles must differ")
        return styles


class Judge(Part):
    """A model that rules whether a reasoning is sound: any engine, never a student."""

    name: Name
    """How it is called in every record."""
    engine: str
    """A key of `engines`."""


class Judging(Part):
    """How judges are asked, and how their rulings are counted."""

    rubric: str = RUBRIC
    """What a judge is told to look for."""
    ruling_schema: dict[str, Any] = Field(default_factory=lambda: dict(RULING_SCHEMA))
    """JSON schema of a ruling: an object with `ruling`, VALID or INVALID, and `reason`, a text; more is kept as it comes."""
    rule: Literal["majority", "unanimous"] = "majority"
    """How many judges must say VALID: more than say INVALID, or all that can be read. A tie decides nothing."""
    audit: float = Field(default=0.1, ge=0, le=1)
    """Share of the trajectories with a wrong answer that are judged too, to see how judges agree with the answer check."""
    max_tokens: int = Field(default=512, ge=16)
    """Cap on a ruling."""

    @field_validator("ruling_schema")
    @classmethod
    def _rules(cls, schema: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        try:
            schema = json.loads(json.dumps(schema, allow_nan=False))
            Draft202012Validator.check_schema(schema)
            root = DRAFT202012.create_resource(schema)
            _look_up(root, Registry().resolver_with_root(root))
            Draft202012Validator(schema, registry=Registry()).is_valid({"ruling": "VALID", "reason": ""})
        except SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"is no JSON: {error}") from error
        except Unresolvable as error:
            raise ValueError(f"refers to what is not in it: {error.ref}") from error
        except RecursionError as error:
            raise ValueError("refers to itself without an end") from error
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        ruling = properties.get("ruling") if isinstance(properties, dict) else None
        accepted = ruling.get("enum") if isinstance(ruling, dict) else None
        if "ruling" not in required or accepted not in (["VALID", "INVALID"], ["INVALID", "VALID"]):
            raise ValueError("must require `ruling`, an enum of VALID and INVALID")
        if "reason" not in required or not isinstance(properties.get("reason"), dict):
            raise ValueError("must require `reason`, a string")
        return schema


def _look_up(schema: Any, resolver: Any) -> None:
    """Look up what `schema`, a `referencing.Resource`, and all in it refer to. Raises `Unresolvable`."""
    if isinstance(schema.contents, dict) and "$ref" in schema.contents:
        resolver.lookup(schema.contents["$ref"])
    for inner in schema.subresources():
        _look_up(inner, resolver.in_subresource(inner))


class Consensus(Part):
    """The graph of a question's trajectories."""

    embedder: str | None = None
    """A sentence-transformers model, a folder or a hub id (`pip install 'peripatos[embeddings]'`); None: TF-IDF of the
    question's own trajectories."""
    device: str = "cpu"
    """Where the embedder runs."""
    samples: int = Field(default=4, ge=1, le=256)
    """Trajectories of each teacher for a question without a gold answer, where there is no `sampling`."""
    min_support: Probability = 0.5
    """Without a gold answer the leading answer is a question's target when so large a share of what was sampled gives it."""
    min_centrality: float = Field(default=1.0, ge=0)
    """An accepted trajectory below this centrality (1 is its question's average) ..."""
    min_similarity: float = Field(default=0.4, ge=0, le=1)
    """... without a neighbour of this similarity is misleading: right by luck."""
    drop_misleading: bool = False
    """Whether it is rejected for that."""


class Target(Part):
    """How many accepted trajectories are wanted."""

    accepted: int | None = Field(default=None, ge=1)
    """The run ends when it has so many; None: when every question is settled. Harmless: may differ when a run is resumed."""
    least: int = Field(default=1, ge=1)
    """A question that has fewer is sampled again, ..."""
    attempts: int = Field(default=1, ge=1, le=1000)
    """... as long as this many attempts at it have not been made: the first one, and rounds of `sampling`."""
    most: int | None = Field(default=None, ge=1)
    """The best so many of a question are accepted; None: all."""
