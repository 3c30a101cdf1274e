"""What a student's process is told: one JSON file. Imports no torch, so that the orchestrator can build it.

Invariant: with the store, it decides every number that the training makes. Not covered: the run's other parts.
"""

from __future__ import annotations

from pathlib import Path

from configs.part import Part
from configs.schema import Student


class Spec(Part):
    """One student's training."""

    store: Path
    """The run's database."""
    student: Student
    """The student, as configured."""
    model: Path
    """The folder of the model that it starts from."""
    directory: Path
    """Where checkpoints and the adapter go."""
    seed: int
    """Adapter, order and dropout are drawn from this."""
    config_hash: str
    """Identity of the configuration: a checkpoint of another one is not continued."""
