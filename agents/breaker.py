"""When an engine that fails for everyone is left alone, and when it is looked at again.

    open ──`FALLS` failures in a row──▶ parked ──time over──▶ one look ──answer──▶ open
                                           ▲                      │
                                           └────── failure ◀──────┘  (twice as long, up to `longest_s`)

Pure: the clock is passed in. Invariant: while parked, at most one request is out. Not covered: who waits (`limits.py`).
"""

from __future__ import annotations

import math

from agents.errors import Retryable, Throttled

FALLS = 5
"""So many failures in a row, with no answer between them, park an engine."""
PATIENT_S = 10.0
"""To be turned away is a failure of the engine only when nothing was let in for so long."""
FIRST_S = 1.0
"""From parking to the first look."""
MOST_DOUBLINGS = 32
"""Of the wait between two looks: an engine may be down for days."""


class Breaker:
    """One engine's. `parked_by` is the error that parked it; None while it is open."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._falls = 0
        self._parks = 0
        self._parked_at = -math.inf
        self._down_since = math.inf
        self._until = -math.inf
        self._looking = False
        self._unanswered_since: float | None = None  # when the first request after the last answer was sent
        self.parked_by: Retryable | None = None

    def lets(self, now: float) -> bool:
        """Whether a request may go."""
        return self.parked_by is None or (now >= self._until and not self._looking)

    @property
    def looks_at(self) -> float:
        """When an engine that is parked may be looked at; of one that is open, long ago."""
        if self.parked_by is None:
            return -math.inf
        return math.inf if self._looking else self._until

    def down_s(self, now: float) -> float:
        """For how long it has been parked, looks that failed included."""
        return max(0.0, now - self._down_since) if self.parked_by else 0.0

    def sent(self, now: float) -> None:
        """A request goes."""
        self._looking = self.parked_by is not None
        self._unanswered_since = now if self._unanswered_since is None else self._unanswered_since

    def left(self, sent_at: float) -> None:
        """A request was given up by its caller: if it was the look, another may look."""
        if sent_at > self._parked_at:
            self._looking = False

    def answered(self, now: float) -> bool:
        """The engine answers; whether it had been parked."""
        was_parked = self.parked_by is not None
        self._falls = self._parks = 0
        self._looking, self.parked_by, self._unanswered_since = False, None, None
        return was_parked

    def failed(self, now: float, sent_at: float, error: Retryable) -> bool:
        """A request failed; whether the engine is parked by it, for the first time in a row."""
        if self.parked_by and sent_at <= self._parked_at:
            return False  # sent before it was parked
        if isinstance(error, Throttled) and not self.parked_by and self._unanswered_s(now) < PATIENT_S:
            return False
        self._falls += 1
        if self._falls < FALLS and not self.parked_by:
            return False
        first = self.parked_by is None
        self._down_since = now if first else self._down_since
        self._until = now + max(min(self._longest_s, FIRST_S * 2.0 ** min(self._parks, MOST_DOUBLINGS)), error.after_s or 0.0)
        self._parks += 1
        self._parked_at, self._looking, self.parked_by = now, False, error
        return first

    def _unanswered_s(self, now: float) -> float:
        """For how long it has been asked, and has let nothing in."""
        return 0.0 if self._unanswered_since is None else now - self._unanswered_since
