"""Continuous batching: which rows run, and one pass after another.

    waiting ──admit──▶ rows (a slot each) ──pass──▶ one more token each ──▶ done: states to the prefixes, result to the job
              ▲                                          │
              └── a place, and nobody is just computing  ┘
                  a longer prefix that it could copy

Invariant: every pass computes something for somebody; a row's result never depends on the rows beside it, rounding aside.
A prefix that several waiting rows share is computed once: the others wait a pass and copy it.
Not covered: threads (`agents.engines.transformers`), what a row is (`agents.engines.rows`).
"""

from __future__ import annotations

from collections import deque
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from agents.engines.loading import Loaded, forward
from agents.engines.prefixes import Prefixes, num_common
from agents.engines.rows import Job, Reader, Writer, make_rows
from agents.engines.sampling import draw, sample
from agents.engines.slots import MIN_SHARED, Span

PASS_TOKENS = {"cpu": 512, "cuda": 2048}
"""New tokens of one pass: larger ones are no quicker for each token, and whoever decodes waits longer."""

AnyRow = Writer | Reader


class Batch:
    """All rows of one model. Not thread-safe: the engine's worker owns it."""

    def __init__(self, loaded: Loaded, *, max_batch: int, prefix_bytes: int, ignore_end: bool = False) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._end_ids = frozenset() if ignore_end else loaded.end_ids
        self._pass_tokens = PASS_TOKENS[loaded.device.type]
        self._slots = loaded.empty_slots()
        self._prefixes = Prefixes(prefix_bytes)
        self._keeps_prefixes = prefix_bytes > 0
        self._rows: list[AnyRow | None] = []
        self._waiting: deque[AnyRow] = deque()

    @property
    def idle(self) -> bool:
        """Whether a pass would have nothing to do."""
        return not self._waiting and not any(self._rows)

    def add(self, job: Job) -> None:
        """Queue a request; one that cannot be run fails alone."""
        try:
            self._waiting.extend(make_rows(job, self._loaded.tokenizer, self._loaded.capabilities.context_tokens))
        except Exception as error:  # noqa: BLE001 - a tokenizer raises what it likes; the job's caller gets it
            job.fail(error)

    def fail(self, error: Exception) -> None:
        """Fail whatever is not done."""
        for row in [*self._waiting, *filter(None, self._rows)]:
            row.job.fail(error)

    def step(self) -> None:
        """One pass: drop, admit, compute, hand on."""
        self._drop_abandoned()
        self._admit()
        self._close_gaps()
        planned = self._plan()
        if planned:
            self._settle(planned, self._compute(planned))

    def _drop_abandoned(self) -> None:
        self._waiting = deque(row for row in self._waiting if not row.job.abandoned)
        self._rows = [row if row and not row.job.abandoned else None for row in self._rows]

    # ---- who runs

    def _admit(self) -> None:
        budget = self._pass_tokens - sum(row.pending for row in self._rows if row)
        kept_back: list[AnyRow] = []
        while self._waiting and budget > 0 and sum(map(bool, self._rows)) < self._max_batch:
            row = self._waiting.popleft()
            if not self._slots.fits(sum(map(bool, self._rows)) + 1, self._longest(row)):
                kept_back.append(row)
                break
            if self._place(row):
                budget -= row.pending
            else:
                kept_back.append(row)
        self._waiting.extendleft(reversed(kept_back))

    def _longest(self, row: AnyRow) -> int:
        """Tokens of the longest row, once all have been written."""
        return max(other.num_tokens_at_most for other in [row, *self._live()])

    def _live(self) -> list[AnyRow]:
        return [row for row in self._rows if row]

    def _place(self, row: AnyRow) -> bool:
        """Give the row a slot with all that is cached of it; False if waiting for a row that is being read saves more."""
        wanted = row.prompt[: row.reusable]
        length, pieces = self._prefixes.match(wanted)
        source, found = self._running_prefix(row)
        if self._coming(row) >= max(length, found) + MIN_SHARED:
            return False
        slot = self._rows.index(None) if None in self._rows else len(self._rows)
        self._slots.reserve(slot + 1, len(row.tokens) + 1)
        if found > length:
            self._slots.copy(source, slot, found)
        else:
            self._write(slot, pieces)
        row.computed = row.cached = max(length, found)
        self._rows[slot : slot + 1] = [row]
        return True

    def _running_prefix(self, row: AnyRow) -> tuple[int, int]:
        """The slot whose computed tokens begin most like this row, and how many of them do."""
        wanted = row.prompt[: row.reusable]
        found = [(num_common(wanted, other.prompt[: other.computed]), slot) for slot, other in enumerate(self._rows) if other]
        length, slot = max(found, default=(0, 0))
        return slot, length

    def _coming(self, row: AnyRow) -> int:
        """How much of this row can be copied once the rows that are now being read have been."""
        wanted = row.prompt[: row.reusable]
        sources = [other for other in self._live() if other.reads and (self._keeps_prefixes or isinstance(other, Writer))]
        return max((num_common(wanted, other.prompt) for other in sources), default=0)

    def _write(self, slot: int, pieces: list[Tensor]) -> None:
        at = 0
        for piece in pieces:
            self._slots.write(slot, at, piece)
            at += piece.shape[3]

    def _close_gaps(self) -> None:
        """Move the last rows into slots that nobody took over."""
        while None in self._rows:
            last = self._rows.pop()
            if last is None:
                continue
            gap = self._rows.index(None)
            self._slots.copy(len(self._rows), gap, last.computed)
            self._rows[gap] = last

    # ---- one pass

    def _plan(self) -> list[tuple[AnyRow, Span]]:
        """New tokens of each row: rows that decode are always served, those that read share what is left."""
        left = max(1, self._pass_tokens - sum(1 for row in self._live() if row.pending == 1))
        planned = []
        for slot, row in enumerate(self._rows):
            assert row is not None
            count = 1 if row.pending == 1 else min(row.pending, left)
            left -= count if row.pending > 1 else 0
            if count:
                planned.append((row, Span(slot, row.computed, count)))
        return planned

    def _compute(self, planned: list[tuple[AnyRow, Span]]) -> Tensor:
        """Logits [W, V] after every wanted token, row by row."""
        self._slots.reserve(len(self._rows), max(span.stop for _, span in planned))
        tokens = [token for row, span in planned for token in row.tokens[span.start : span.stop]]
        wanted, begin = [], 0
        for row, span in planned:
            wanted.extend(position - span.start + begin for position in row.wanted(span.stop))
            begin += span.count
        tokens_N = torch.tensor(tokens, device=self._loaded.device)
        return forward(self._loaded.model, tokens_N, self._slots, [span for _, span in planned], _num_shared(planned), wanted)

    def _settle(self, planned: list[tuple[AnyRow, Span]], logits_WV: Tensor) -> None:
        """Hand every row its part of the logits; those that are done leave."""
        writers: list[tuple[int, Writer, int]] = []
        at = 0
        for row, span in planned:
            num = len(row.wanted(span.stop))
            row.computed = span.stop
            if isinstance(row, Writer):
                writers.extend([(span.slot, row, at)] * num)
            elif num and row.read(_logprobs(logits_WV[at : at + num], row.targets[len(row.values) :][:num])):
                self._leave(span.slot, row)
            at += num
        if writers:
            self._choose(writers, logits_WV if len(writers) == at else logits_WV[[place for _, _, place in writers]])

    def _choose(self, writers: list[tuple[int, Writer, int]], logits_RV: Tensor) -> None:
        rows = [row for _, row, _ in writers]
        draws = [draw(row.request.seed, row.index, row.num_new) for row in rows]
        tokens_R = sample(logits_RV, [row.request.temperature for row in rows], [row.request.top_p for row in rows], draws)
        tokens = tokens_R.tolist()
        asking = [place for place, row in enumerate(rows) if row.request.logprobs]
        if asking:
            for place, value in zip(asking, _logprobs(logits_RV[asking], [tokens[place] for place in asking]), strict=True):
                rows[place].logprobs.append(value)
        for (slot, row, _), token in zip(writers, tokens, strict=True):
            if row.write(token, token in self._end_ids):
                self._leave(slot, row)

    def _leave(self, slot: int, row: AnyRow) -> None:
        stored = np.array(row.tokens[: row.num_stored], np.int64)
        self._prefixes.insert(stored, lambda start, stop: self._slots.read(slot, start, stop))
        self._rows[slot] = None


def _num_shared(planned: list[tuple[AnyRow, Span]]) -> int:
    """Cached tokens that all rows with one new token have in common."""
    decoding = [row.prompt[: span.start] for row, span in planned if span.count == 1]
    if len(decoding) < 2:
        return 0
    return len(reduce(lambda left, right: left[: num_common(left, right)], decoding))


def _logprobs(logits_RV: Tensor, tokens: list[int]) -> list[float]:
    """log p of one token per row, at temperature 1, in float32."""
    logits_RV = logits_RV.float()
    picked = logits_RV.gather(1, torch.tensor(tokens, device=logits_RV.device).unsqueeze(1)).squeeze(1)
    return (picked - logits_RV.logsumexp(-1)).tolist()
