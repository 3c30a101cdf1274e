"""A checkpoint made ready to run: placed, merged with its adapter, and proved to be a plain full-attention decoder.

Invariant: what is returned has passed a check on the real weights: our attention over slots gives the logits of the
library's own attention. A model that cannot (sliding windows, recurrent layers, biased attention) is refused in one line.
Not covered: finding the folder (`agents.models`).
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from agents.engines.base import Capabilities
from agents.engines.rendering import check_template, fingerprints
from agents.engines.slots import ATTENTION, Slots, Span, lay_out
from agents.errors import Terminal
from agents.models import ModelFolder
from configs.engines import TransformersEngine

MEMORY_SHARE = 0.5
"""Of the memory that is free after loading: what the slots of running rows may take."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest accepted error of the check, relative to the largest logit."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with all that running it needs to know."""

    model: Any
    tokenizer: Any
    capabilities: Capabilities
    end_ids: frozenset[int]
    device: torch.device

    def empty_slots(self) -> Slots:
        """Room for keys and values in this model's shapes."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        limit = int(_free_bytes(self.device) * MEMORY_SHARE)
        return Slots((config.num_hidden_layers, heads, width), self.model.dtype, self.device, limit)


def load(config: TransformersEngine, folder: ModelFolder, adapter: Path | None) -> Loaded:
    """Load, check and describe a model. Raises `Terminal` for one that this engine cannot run."""
    disable_progress_bar()
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    model = _load_model(folder.path, adapter, dtype).to(device).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    _refuse_unfit(model, tokenizer, config.model)
    check_template(tokenizer, config.model)
    template, cut = fingerprints(tokenizer)
    capabilities = Capabilities(
        model=config.model,
        found=folder.found,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        scores=True,
        continues=True,
        context_tokens=_context_tokens(model.config),
        template=template,
        tokenizer=cut,
    )
    loaded = Loaded(model, tokenizer, capabilities, _end_ids(model, tokenizer), device)
    _check(loaded)
    return loaded


def _load_model(path: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    if adapter is None:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it if it is there; it complains of kernels
    from peft import PeftModel

    # merged in float32: in bfloat16 a small update is rounded away
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        return adapted.merge_and_unload().to(dtype)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Terminal(f"device {name!r} was asked for, and this torch sees no GPU")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_computes_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_computes_bfloat16() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def _refuse_unfit(model: Any, tokenizer: Any, name: str) -> None:
    config = model.config
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    context = getattr(config, "max_position_embeddings", 0)
    reason = None
    if config.is_encoder_decoder:
        reason = "it is an encoder-decoder"
    elif kinds:
        reason = f"it has layers of kind {', '.join(kinds)}"
    elif window and window < context and not getattr(config, "layer_types", None):
        reason = f"it attends through a sliding window of {window} tokens"
    elif not model._supports_attention_backend:
        reason = f"{type(model).__name__} does not let its attention be replaced"
    elif not tokenizer.is_fast:
        reason = "its tokenizer does not tell character offsets"
    elif not tokenizer.chat_template:
        reason = "its tokenizer has no chat template"
    if reason:
        raise Terminal(
            f"the transformers engine cannot run {name}: {reason}; it runs chat models with full attention in every layer"
        )


def _context_tokens(config: Any) -> int:
    """Rotary scalings that change with the length are never mixed in one batch: their first, unscaled range is what counts."""
    rope = getattr(config, "rope_parameters", None) or {}
    context = config.max_position_embeddings
    if rope.get("rope_type") in ("dynamic", "longrope"):
        original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        return min(context, original or context)
    return context


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    listed = model.generation_config.eos_token_id
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@torch.inference_mode()
def _check(loaded: Loaded) -> None:
    """Our attention against the library's, on a few tokens: all at once, then one more for two rows."""
    model, name = loaded.model, loaded.capabilities.model
    tokens = torch.arange(12, device=loaded.device).unsqueeze(0) % model.config.vocab_size
    expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    try:
        model.set_attn_implementation(ATTENTION)
        found = _run_in_slots(loaded, tokens[0])
    except Exception as error:  # whatever an unknown architecture does with an unknown attention
        raise Terminal(f"the transformers engine cannot run {name}: {type(error).__name__}: {error}") from error
    off = ((found - expected[-1]).abs().max() / expected.abs().max()).item()
    if not off <= TOLERANCE[model.dtype]:
        raise Terminal(f"the transformers engine cannot run {name}: its attention is not plain (logits are off by {off:.1%})")


def _run_in_slots(loaded: Loaded, tokens: Tensor) -> Tensor:
    """The logits after the last token, [2, V], computed the engine's way in two slots."""
    slots, last = loaded.empty_slots(), len(tokens) - 1
    slots.reserve(2, len(tokens))
    first = [Span(0, 0, last), Span(1, 0, last)]
    forward(loaded.model, torch.cat((tokens[:last], tokens[:last])), slots, first, 0, [0])
    return forward(loaded.model, tokens[-1:].repeat(2), slots, [Span(0, last, 1), Span(1, last, 1)], 0, [0, 1]).float()


def forward(model: Any, tokens_N: Tensor, slots: Slots, spans: list[Span], shared: int, wanted: list[int]) -> Tensor:
    """One pass of the new tokens of all rows; the logits [W, V] after the `wanted` ones of them."""
    layout = lay_out(slots, spans, shared)
    keep = torch.tensor(wanted, dtype=torch.long, device=tokens_N.device)
    position_ids = layout.positions_N.unsqueeze(0)
    out = model(input_ids=tokens_N.unsqueeze(0), position_ids=position_ids, use_cache=False, logits_to_keep=keep, layout=layout)
    return out.logits[0]
