"""Claim: plain training is as fast as TRL's SFTTrainer on the same model, data and settings; and what each part adds.

Each contender trains in a process of its own, in turn, a lap at a time: all have the same batches in the same order, the
first lap warms up, and a lap's ratio is of two laps that ran one after the other. Word problems with four trajectories each,
prompts masked, LoRA of rank 32 on attention without dropout, AdamW, batches of 8 trajectories; tokens are those of prompts
and responses that are learnt, without padding. The loss of the first update must agree with TRL's.

    python benchmarks/trainer_throughput.py [--laps 5] [--dtype float32] [--json FILE]
    python benchmarks/trainer_throughput.py --device cuda --shape 1b [--tokenizer FOLDER]

Columns: `tokens/s`; `cost`, the time of a token in units of the group's first row, with the lowest and the highest lap; `GB`,
the peak (resident, or allocated on the GPU); `+GB`, of which since the model was loaded; `first loss`, per token, of the first
student's first update.
Groups: `plain`, batches of trajectories of like length, as by default; `questions`, batches and passes of whole questions,
which alpha needs; `students`, those for two students that take turns in one process. Target: plain at least 0.95 of the
fastest TRL.

TRL pads (packing and padding-free need FlashAttention), takes the batches as they come (they are sorted by length already),
8 rows in a pass, and 4 and 2 that it accumulates; it logs and saves nothing. Without Triton, as on a CPU, it sends prompts and
padding through the head too, with their entropies: that is TRL's own. Ours cuts a batch as it does by itself: into passes of
at most 512 padded tokens on a CPU. TRL averages over an update's tokens and we over its trajectories: the first loss is
compared as TRL has it.
`router`: its draws and updates, and forward passes over a quarter of what is not routed, are in the time, but not in the
tokens; its features of the texts, made once in a training, are in neither. `whole loop` has the store, and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import device
from trainings import CONTENDERS, Contender, Gate, race
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agents.models import resolve
from trainers.student import find_device, find_dtype

MARK = "LAP "
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "360m": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
HEADS = {"tiny": 2, "360m": 5, "1b": 8}
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


# ----------------------------------------------------------------------------------------------------- a contender's process


@dataclass(slots=True)
class Clock:
    """A gate that tells the parent of every lap and waits to be told to run the next."""

    updates: int
    laps: int
    cuda: bool
    loaded_gb: float = 0.0
    done: int = 0
    tokens: int = 0
    started: float = 0.0

    def say(self, message: dict[str, Any]) -> None:
        """One line, and wait for one."""
        print(MARK + json.dumps(message), flush=True)
        if not sys.stdin.readline():
            raise SystemExit("the parent has gone")
        self.tokens, self.started = 0, time.perf_counter()

    def ready(self) -> None:
        """All is loaded."""
        self.loaded_gb = self._peak_gb(loading=True)
        self.say({"loaded_gb": self.loaded_gb})

    def first(self, loss: float) -> None:
        """The first update's loss; no answer."""
        print(MARK + json.dumps({"first": loss}), flush=True)

    def update(self, tokens: int) -> None:
        """One is done; the last of a lap reports it."""
        self.done, self.tokens = self.done + 1, self.tokens + tokens
        if self.done % self.updates == 0:
            if self.cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self.started
            self.say({"seconds": seconds, "tokens": self.tokens, "peak_gb": self._peak_gb()})

    def _peak_gb(self, *, loading: bool = False) -> float:
        if self.cuda:
            return (torch.cuda.memory_allocated() if loading else torch.cuda.max_memory_allocated()) / 2**30
        if loading:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def work(name: str, options: argparse.Namespace) -> None:
    """Be one contender."""
    if options.threads:
        torch.set_num_threads(options.threads)
    contender = next(each for each in CONTENDERS if each.name == name)
    clock = Clock(options.updates, options.laps, find_device(options.device).type == "cuda")
    race(contender, Path(options.folder), options, Gate(update=clock.update, first=clock.first, ready=clock.ready))


# --------------------------------------------------------------------------------------------------------------- the parent


@dataclass(slots=True)
class Runner:
    """A contender's process, and what it told."""

    contender: Contender
    process: subprocess.Popen[str]
    loaded_gb: float = 0.0
    peak_gb: float = 0.0
    first: float | None = None
    token_s: list[float] = field(default_factory=list)
    """Seconds of a token, by lap."""

    def wait(self) -> None:
        """Read to the end of its lap."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith(MARK):
                continue
            told = json.loads(line.removeprefix(MARK))
            if "first" in told:
                self.first = told["first"]
                continue
            if "seconds" in told:
                self.token_s.append(told["seconds"] / told["tokens"])
                self.peak_gb = told["peak_gb"]
            else:
                self.loaded_gb = told["loaded_gb"]
            return
        raise SystemExit(f"{self.contender.name} ended with {self.process.wait()}; run it alone with --worker to see why")

    def go(self) -> None:
        """Let it run its next lap."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


def start(contender: Contender, folder: Path) -> Runner:
    """A process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", contender.name, "--folder", str(folder)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=None if "--loud" in sys.argv else subprocess.DEVNULL,
    )
    return Runner(contender, process)


def measured(contenders: list[Contender], folder: Path, laps: int) -> list[Runner]:
    """All contenders of a group, a lap each in turn."""
    runners = [start(contender, folder) for contender in contenders]
    for runner in runners:
        runner.wait()
    for lap in range(laps + 1):
        for runner in runners if lap % 2 else runners[::-1]:
            runner.go()
            runner.wait()
            told = f"{1 / runner.token_s[-1]:.0f} tokens/s"
            print(f"  lap {lap}{' (warm-up)' if lap == 0 else ''} {runner.contender.name}: {told}", flush=True)
    for runner in runners:
        runner.go()
        runner.process.wait()
    return runners


def rows_of(runners: list[Runner]) -> list[dict[str, Any]]:
    """A row for each, in units of the first."""
    base = runners[0].token_s[1:]
    rows = []
    for runner in runners:
        mine = runner.token_s[1:]
        ratios = [own / first for own, first in zip(mine, base, strict=True)]
        rows.append(
            {
                "group": runner.contender.group,
                "name": runner.contender.name,
                "tokens_per_s": 1 / statistics.median(mine),
                "cost": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "peak_gb": runner.peak_gb,
                "added_gb": runner.peak_gb - runner.loaded_gb,
                "first_loss": runner.first,
                "laps": [1 / each for each in mine],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    """Print."""
    print(
        f"{'group':10} {'':18} {'tokens/s':>9} {'cost':>6} {'lowest':>7} {'highest':>8} {'GB':>6} {'+GB':>6} {'first loss':>11}"
    )
    for row in rows:
        loss = "" if row["first_loss"] is None else f"{row['first_loss']:.5f}"
        numbers = "{tokens_per_s:9.0f} {cost:6.3f} {lowest:7.3f} {highest:8.3f} {peak_gb:6.2f} {added_gb:6.2f}".format(**row)
        print(f"{row['group']:10} {row['name']:18} {numbers} {loss:>11}")


def compared(rows: list[dict[str, Any]], dtype: str) -> dict[str, float]:
    """Plain against the fastest TRL, whose first loss must be ours."""
    theirs = [row for row in rows if row["name"].startswith("trl")]
    plain = next((row for row in rows if row["name"] == "plain"), None)
    if not theirs or plain is None:
        return {}
    apart = max(abs(row["first_loss"] - plain["first_loss"]) for row in theirs)
    if apart > TOLERANCE[dtype]:
        raise SystemExit(f"the first losses are {apart:.5f} apart, more than {TOLERANCE[dtype]}: this compares nothing")
    best = min(theirs, key=lambda row: row["cost"])
    ratios = [own / other for own, other in zip(plain["laps"], best["laps"], strict=True)]
    found = {"to_trl": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios), "losses_apart": apart}
    spread = f"{found['lowest']:.3f} to {found['highest']:.3f}"
    print(
        f"plain to {best['name']}: {found['to_trl']:.3f} ({spread}); first losses {apart:.5f} apart (at most {TOLERANCE[dtype]})"
    )
    return found


def prepared(options: argparse.Namespace, scratch: Path) -> Path:
    """The model's folder; of `--shape`, weights that are drawn, with a tokenizer beside them."""
    if options.shape is None:
        return resolve(options.model).path
    tokenizer = AutoTokenizer.from_pretrained(str(resolve(options.tokenizer, weights=False).path))
    config = LlamaConfig(
        vocab_size=options.vocabulary or len(tokenizer),
        num_key_value_heads=HEADS[options.shape],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[options.shape],
    )
    torch.manual_seed(0)
    dtype = find_dtype(options.dtype, find_device(options.device))
    model: Any = LlamaForCausalLM(config)
    model.to(dtype).save_pretrained(str(scratch))
    tokenizer.save_pretrained(str(scratch))
    return scratch


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="a folder or hub id")
    parser.add_argument("--shape", choices=list(SHAPES), help="a Llama of this size with drawn weights, instead of --model")
    parser.add_argument("--vocabulary", type=int, help="of --shape; the tokenizer's if not given")
    parser.add_argument("--tokenizer", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="of --shape: a folder or hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--laps", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="of a lap, of 8 trajectories each")
    parser.add_argument("--groups", nargs="+", default=["plain", "questions", "students"])
    parser.add_argument("--only", nargs="+", help="names of contenders; the first of a group is what it is compared with")
    parser.add_argument("--loud", action="store_true", help="let contenders write to standard error")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.worker:
        work(options.worker, options)
        return
    found = find_device(options.device)
    dtype = str(find_dtype(options.dtype, found)).removeprefix("torch.")
    rows, to_trl = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepared(options, Path(scratch))
        for group in options.groups:
            wanted = [each for each in CONTENDERS if each.group == group and each.name in (options.only or [each.name])]
            rows += rows_of(measured(wanted, folder, options.laps)) if wanted else []
    where = torch.cuda.get_device_name() if found.type == "cuda" else device()
    what = options.shape or options.model
    print(f"\n{what}, {dtype}, {where}; medians of {options.laps} laps of {options.updates} updates")
    table(rows)
    to_trl = compared(rows, dtype)
    if options.json:
        report = {"model": what, "dtype": dtype, "machine": where, "laps": options.laps, "updates": options.updates}
        options.json.write_text(json.dumps({**report, "to_trl": to_trl, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
