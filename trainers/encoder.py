"""What the router sees of a text, a question with its trajectory: h (QR-Distill, "Route"), from a frozen encoder or from none.

    J texts, T tokens, D width

Invariant: a text's features depend on that text only; nothing here learns. A model's may differ in the last digits with what
else is in the batch. Not covered: gates (`gates.py`), and which model is taken where.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

MOST_TOKENS = 512
"""Of a longer text the first and the last half of these are read: the question and the conclusion."""
BATCH = 16

_PARTS = re.compile(r"[^\W\d]\w*|\d+(?:[.,]\d+)*|[^\w\s]")
_LENGTH = "length of the text"  # has blanks, so that it is no part and no pair of parts


class HashedText:
    """No model: words, numbers by their length, symbols and pairs of these, hashed into `width` signed sums; length 1.

    Counts are damped (log(1 + n)). A text with nothing in it is all zeros.
    """

    def __init__(self, width: int = 256) -> None:
        self.width = width

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(J, D), float32, on the CPU."""
        rows_JD = np.zeros((len(texts), self.width))
        for row_D, text in zip(rows_JD, texts, strict=True):
            for feature, value in _features(text).items():
                drawn = _hashed(feature)
                row_D[(drawn >> 1) % self.width] += value if drawn & 1 else -value
        return functional.normalize(torch.from_numpy(rows_JD), dim=1).float()


class TextEncoder:
    """A transformers model, frozen, float32: the mean of its last states over a text's tokens."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        """Reads one word, to see that it can. The model may be an encoder or a decoder, not both."""
        self.device = device
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._most = min(MOST_TOKENS, _window(model.config), int(tokenizer.model_max_length))
        self._padding: int = tokenizer.pad_token_id or 0  # any id will do: the mask hides it
        self.width = self._pooled([self._tokens("word") or [0]]).shape[1]

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> TextEncoder:
        """The model of a local folder. Raises `ValueError`, in one line, for a folder that holds none that reads texts."""
        try:
            with _quiet():
                model, tokenizer = _load(folder)
                return cls(model, tokenizer, device)
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, SafetensorError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{folder}: this folder holds no model that can encode texts: {said}") from error

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(J, D), float32, on the CPU. A text without a token is all zeros."""
        tokens = [self._tokens(text) for text in texts]
        order = sorted((place for place, each in enumerate(tokens) if each), key=lambda place: len(tokens[place]))
        encoded_JD = torch.zeros(len(texts), self.width)
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            encoded_JD[batch] = self._pooled([tokens[place] for place in batch]).cpu()
        return encoded_JD

    def _tokens(self, text: str) -> list[int]:
        """With the special tokens that the tokenizer adds; of too many the first and the last half."""
        readable = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text to a tokenizer
        tokens: list[int] = self._tokenizer(readable, truncation=False, verbose=False)["input_ids"]
        tail = self._most // 2
        return tokens if len(tokens) <= self._most else tokens[: self._most - tail] + tokens[len(tokens) - tail :]

    @torch.no_grad()
    def _pooled(self, tokens: Sequence[list[int]]) -> Tensor:
        """The mean over each row's own tokens; padding stands on the right, where positions and causal attention allow it."""
        longest = max(map(len, tokens))
        tokens_JT = torch.tensor([each + [self._padding] * (longest - len(each)) for each in tokens], device=self.device)
        mask_JT = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in tokens], device=self.device)
        states_JTD = self._model(input_ids=tokens_JT, attention_mask=mask_JT).last_hidden_state.float()
        return (states_JTD * mask_JT.unsqueeze(2)).sum(1) / mask_JT.sum(1, keepdim=True)


def open_encoder(folder: Path | None, width: int, device: torch.device) -> HashedText | TextEncoder:
    """The model of `folder`, or hashing into `width` without one. Raises `ValueError` for a folder without such a model."""
    return HashedText(width) if folder is None else TextEncoder.load(folder, device)


def _features(text: str) -> dict[str, float]:
    """Each feature's value. All numbers of one length are one feature: zeros, which are nothing else's."""
    parts = ["0" * len(part) if part[0].isdecimal() else part.lower() for part in _PARTS.findall(text)]
    counts = Counter(parts) + Counter(f"{one} {other}" for one, other in pairwise(parts))
    return {_LENGTH: math.log1p(len(parts))} | {feature: math.log1p(count) for feature, count in counts.items()}


@lru_cache(maxsize=1 << 17)
def _hashed(feature: str) -> int:
    """Of 64 bits; the same in every process, as Python's own is not."""
    return int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer  # here: hashing needs none of it

    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a BERT's folder without a vocabulary
        raise ValueError("its tokenizer knows no words")
    model, found = AutoModel.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True, **local)
    lost = sorted(name for name in found["missing_keys"] if "pooler" not in name)  # a pooler is not asked
    if lost:
        raise ValueError(f"its weights lack {lost[0]} and {len(lost) - 1} more")
    return (model.get_encoder() if model.config.is_encoder_decoder else model), tokenizer


def _window(config: Any) -> int:
    """The most tokens that a model has positions for; those of a relative kind do not end."""
    return getattr(config, "max_position_embeddings", None) or MOST_TOKENS


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without progress bars and without the libraries' advice to their own developers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
