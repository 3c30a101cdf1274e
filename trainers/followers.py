"""A student and its optimizer as every rank opens them, and what a rank does that does not lead.

Consumes: orders of rank 0. Produces: what `Learner`'s methods of those names do. Waits for: the next order, for as long as it
takes. Unblocked by: rank 0, also by its death. Invariant: it touches no store and no file but the model's and checkpoints, which
it reads. Not covered: which orders (`loop.py`).
"""

from __future__ import annotations

import torch

from store.types import content_id
from trainers.ranks import Ranks, Together
from trainers.spec import Spec
from trainers.student import load_student
from trainers.update import Learner


def open_learner(spec: Spec, ranks: Ranks) -> Learner:
    """Load the student; a new adapter is the same in all ranks. Raises `ValueError` for a model that cannot be a student."""
    shared, config = spec.shared, spec.student
    seed = int(content_id("adapter", shared.seed, config.name)[:12], 16)
    return Learner(load_student(spec.model, config, seed, ranks), config, shared.seed, shared.peers, ranks)


def follow(spec: Spec, ranks: Together) -> None:
    """Do as rank 0 does, until its last order."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    learner: Learner | None = None
    while (order := ranks.order()) is not None:
        name, arguments = order
        if learner is None:  # the first order, whatever it is called
            learner = open_learner(spec, ranks)
        else:
            getattr(learner, name)(*arguments)
