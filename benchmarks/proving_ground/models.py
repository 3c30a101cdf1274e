"""One small model, trained from scratch: a folder as the hub has them.

Invariant: the same recipe gives the same weights, bit for bit, on the same machine: one thread, and every number that is drawn
comes from the recipe's seed. Needs torch 2.9 or newer, which has Muon.
Not covered: which models there are (`build`), and keeping them (`cache`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from .rows import Row, Skill, row
from .tokens import END, PAD, make

POOL = 40
"""Batches that are drawn at once and cut by length, so that little is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides a model's weights."""

    name: str
    tokenizer: str
    skill: Skill
    seed: int = 0
    layers: int = 3
    width: int = 128
    heads: int = 4
    updates: int = 1000
    batch: int = 32
    learning_rate: float = 1.5e-2
    longest: int = 7
    """Most operations of a chain."""


def train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train and save; what it took and what came out. Leaves torch's threads and its generator as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        return _train(recipe, folder)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def _train(recipe: Recipe, folder: Path) -> dict[str, Any]:
    started = time.process_time()
    tokenizer = make(recipe.tokenizer)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(shape(recipe, len(tokenizer), tokenizer.get_vocab()[END]))
    model.train()
    optimizers = _optimizers(model, recipe.learning_rate)
    padding = tokenizer.get_vocab()[PAD]
    losses: list[float] = []
    for update, rows in enumerate(_batches(recipe, tokenizer)):
        loss = _loss(model, rows, padding)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _share(update, recipe.updates)
            optimizer.step()
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "loss": sum(losses[-POOL:]) / len(losses[-POOL:]),
        "cpu_seconds": time.process_time() - started,
    }


def shape(recipe: Recipe, vocabulary: int, end: int) -> LlamaConfig:
    """The architecture."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 5 // 2,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
    )


def _optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest: after 250 updates a loss of .64, where AdamW alone stood at 1.30."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def _share(update: int, updates: int) -> float:
    """Of the learning rate: up in a tenth of the time, then down in a straight line."""
    return min(1.0, 10 * (update + 1) / updates, (updates - update) / (0.9 * updates))


def _batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Every batch of a training, rows of one batch of about one length, batches in random order."""
    chance = random.Random(f"{recipe.seed} {recipe.name}")
    for at in range(0, recipe.updates, POOL):
        count = min(POOL, recipe.updates - at)
        rows = [row(chance, recipe.skill, tokenizer, recipe.longest, at / recipe.updates) for _ in range(count * recipe.batch)]
        rows.sort(key=lambda each: len(each.tokens))
        batches = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        chance.shuffle(batches)
        yield from batches


def _loss(model: LlamaForCausalLM, rows: list[Row], padding: int) -> Tensor:
    """Weighted mean over the tokens that count. Legend: B rows, T tokens, S the tokens that are seen."""
    longest = max(len(each.tokens) for each in rows)

    def padded(column: str, filler: float, kind: torch.dtype) -> Tensor:
        lists = [getattr(each, column) for each in rows]
        return torch.tensor([[*values, *[filler] * (longest - len(values))] for values in lists], dtype=kind)

    tokens_BT = padded("tokens", padding, torch.long)
    counts_BT = padded("weights", 0.0, torch.float32)[:, 1:]
    inputs: dict[str, Any] = {"input_ids": tokens_BT, "position_ids": padded("positions", 0, torch.long)}
    if any(max(each.branches) for each in rows):  # otherwise causal, and padding on the right is not seen
        inputs["attention_mask"] = sees(padded("branches", 0, torch.long), padded("seen", 1, torch.long))
    counted = counts_BT > 0
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][counted]
    losses = cross_entropy(model.lm_head(hidden), tokens_BT[:, 1:][counted], reduction="none")
    return (losses * counts_BT[counted]).sum() / counts_BT.sum()


def sees(branches_BT: Tensor, seen_BT: Tensor) -> Tensor:
    """Whether a token sees another one [B, 1, T, S]: the trunk up to where its branch starts, and its branch up to itself."""
    place = torch.arange(branches_BT.shape[1])
    trunk = (branches_BT[:, None, :] == 0) & (place < seen_BT[:, :, None])
    own = (branches_BT[:, None, :] == branches_BT[:, :, None]) & (branches_BT[:, :, None] > 0) & (place <= place[:, None])
    return (trunk | own)[:, None]
