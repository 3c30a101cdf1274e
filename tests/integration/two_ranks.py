"""Two ranks, each of which also computes alone: what differs. `torchrun --nproc-per-node 2 two_ranks.py FOLDER RESULTS.json`.

Rank 0 writes, for every variant, the losses and weights of both, after three updates: one of many passes, one of a single pass,
and one that only measures.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tiny_student import make_spec
from tiny_training import examples
from torch.distributed.tensor import DTensor

from configs.schema import Compatibility, Lora
from trainers import shards
from trainers.data import Example
from trainers.ranks import Alone, Ranks, Together, open_ranks
from trainers.spec import Spec
from trainers.student import load_student
from trainers.update import Learner

WEIGHED: dict[str, Any] = {"compatibility": Compatibility(consistency=0.1), "batch_of": "questions", "conclusion": "common"}
FULL: dict[str, Any] = {"tuning": "full", "learning_rate": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, weighed": WEIGHED,
    "qlora": {"tuning": "qlora"},
    "full": FULL,
    "full, checkpointing": FULL | {"gradient_checkpointing": True},
    "lora, split": {"shard": True},
    "lora, split, weighed, checkpointing": WEIGHED | {"shard": True, "gradient_checkpointing": True},
    "lora, split, bfloat16": {"shard": True, "dtype": "bfloat16"},
    "full, split": FULL | {"shard": True},
    "full, split, untied": FULL | {"shard": True, "model": "untied"},
    "full, split, weighed, checkpointing": FULL | WEIGHED | {"shard": True, "gradient_checkpointing": True},
}


def paired(some: list[Example]) -> list[Example]:
    """Two by two of one question, whose answer is the token before the end of the turn."""
    return [
        replace(each, question=f"q{at // 2}", answer=(len(each.tokens) - 2, len(each.tokens) - 1)) for at, each in enumerate(some)
    ]


def open_learner(spec: Spec, ranks: Ranks) -> Learner:
    config = spec.student if isinstance(ranks, Together) else spec.student.model_copy(update={"processes": 1, "shard": False})
    return Learner(load_student(spec.model, config, 3, ranks), config, 3, None, ranks)


def update(learner: Learner, number: int, learnt: list[Example], measured: list[Example]) -> dict[str, Any]:
    learner.begin(number, 1e-2 if learner.config.tuning != "full" else 1e-3, learnt)
    learner.measure(measured)
    learner.learn(learnt)
    found = learner.finish()
    learner.step()
    return asdict(found)


def train(learner: Learner, some: list[Example], folder: Path) -> dict[str, Any]:
    """Three updates, and a fourth after a checkpoint by another learner."""
    measured = [
        update(learner, 0, some[:6], some[6:10]),
        update(learner, 1, some[:1], []),
        update(learner, 2, [], some[3:6]),
    ]
    if learner.ranks.rank == 0:
        folder.mkdir()
    if isinstance(learner.ranks, Together):
        learner.ranks.gather(None)
    learner.save(folder, final=False)
    learner.ranks.gather(None)
    return {"measured": measured, "weights": whole_weights(learner)}


def resume(learner: Learner, some: list[Example], folder: Path) -> dict[str, Any]:
    learner.load(folder)
    return {"measured": [update(learner, 3, some[2:9], [])], "weights": whole_weights(learner)}


def whole_weights(learner: Learner) -> dict[str, list[float]]:
    named = {str(number): parameter for number, parameter in enumerate(learner.student.parameters)}
    return {name: tensor.flatten().tolist() for name, tensor in shards.gather(named, keep=True).items()}


def share(learner: Learner) -> float:
    """Of the layers' learning weights, what this rank holds."""
    split = [each for each in learner.student.parameters if isinstance(each, DTensor)]
    whole = sum(each.numel() for each in split)
    return sum(each.to_local().numel() for each in split) / whole if whole else 1.0


def main(root: Path, results: Path) -> None:
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    with open_ranks(make_spec(root, root / "model", processes=2).student) as opened:
        assert isinstance(opened, Together)
        for name, settings in VARIANTS.items():
            settings = dict(settings)
            model = root / settings.pop("model", "model")
            spec = make_spec(root, model, processes=2, **{"lora": Lora(rank=4, alpha=8, dropout=0.1)} | settings)
            some = paired(examples(spec))
            ranks = Together(opened.rank, opened.size, opened._orders, sharded=spec.student.shard)
            told[name] = {}
            for how, whose in (("together", ranks), ("alone", Alone())):
                folder = root / f"{name} {how}"
                if how == "alone" and opened.rank != 0:
                    continue
                first_learner = open_learner(spec, whose)
                first = train(first_learner, some, folder)
                told[name][how] = [first, resume(open_learner(spec, whose), some, folder)]
                told[name][f"{how}: held"] = share(first_learner)
    if opened.rank == 0:
        results.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
