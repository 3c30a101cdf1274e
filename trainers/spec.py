"""What an actor's process is told: a JSON file for each actor. Imports no torch, so that the orchestrator can build it.

Invariant: with the store, it decides every number that the training makes. Not covered: the run's other parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from configs.part import Part
from configs.schema import Peers, Router, Student


class Shared(Part):
    """What all actors of a run know."""

    store: Path
    """The run's database."""
    seed: int
    """Adapters, order, dropout and the router's noise are drawn from this."""
    config_hash: str
    """Identity of the configuration: a checkpoint of another one is not continued."""
    names: tuple[str, ...]
    """All students of the run, in its order."""
    answer_prefix: str = "The final answer is "
    """What leads to the right answer in a common conclusion."""
    router: Router | None = None
    """The router, if there is one."""
    peers: Peers | None = None
    """How students teach each other."""
    exchange: Path | None = None
    """Where processes leave what they tell each other."""


class Spec(Part):
    """One student's training."""

    kind: Literal["student"] = "student"
    """Which actor this is."""
    shared: Shared
    """What all know."""
    student: Student
    """The student, as configured."""
    model: Path
    """The folder of the model that it starts from."""
    directory: Path
    """Where checkpoints and the weights go."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that it computes with on a CPU; None: as many as torch likes."""


class RouterSpec(Part):
    """The router's training."""

    kind: Literal["router"] = "router"
    """Which actor this is."""
    shared: Shared
    """What all know."""
    student: Student
    """Any of the students: all agree on the batches."""
    encoder: Path | None = None
    """The folder of the encoder; None: hashed words."""
    directory: Path
    """Where its checkpoints go."""


AnySpec = Spec | RouterSpec
_ANY: TypeAdapter[AnySpec] = TypeAdapter(Annotated[AnySpec, Field(discriminator="kind")])


def read_spec(path: Path) -> AnySpec:
    """The spec of a file."""
    return _ANY.validate_json(path.read_bytes())
