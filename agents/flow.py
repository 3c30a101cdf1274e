"""How much of a load a server takes, learnt from its answers: requests in flight, and requests a second.

    in flight   one more an answer until the first trouble, then one more a round trip; trouble cuts it (AIMD)
    pace        unbounded until the first "too many requests"; then slow, doubling until the next; then it falls a little
                with each refusal, comes back to where it was refused, rests there, and goes beyond (CUBIC, RFC 9438)

A server that counts requests a second is followed by the pace, one that is merely full by the number in flight: alone, the
number in flight is too coarse (at 0.2 s an answer, 6 in flight are 30 a second, and 7 are 35).
Pure: the clock is passed in. Invariant: at least one request may be in flight, and never more than `most`.
Not covered: who waits for admission (`limits.py`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

FIRST_IN_FLIGHT = 8.0
CUT = 0.7
"""What trouble leaves of the number in flight."""
FIRST_PACE = 8.0
"""Requests a second after the first refusal."""
DOUBLING_S = 0.5
"""In which the pace doubles, from the first refusal to the second."""
HASTY = 0.75
"""What a refusal leaves of a pace that was not held for long enough to count what was let in."""
SETTLE_S = 0.2
"""After a change of the pace, in which refusals are still of the old one."""
DROP = 0.08
"""Share by which a refusal lowers the pace."""
RETURN_S = 1.5
"""Until it is where it was refused, and the longest rest there."""
SLOWEST = 1 / 60
"""Requests a second: the pace never falls below."""

_WINDOW_S = 1.0


class Flow:
    """The controller of one server; when not `adaptive`, `most` in flight at any pace."""

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self._most = float(most)
        self._adaptive = adaptive
        self._limit = min(self._most, FIRST_IN_FLIGHT) if adaptive else self._most
        self._ramping = adaptive
        self._cut_at = -math.inf
        self._phase: Literal["free", "doubling", "holding"] = "free"
        self._highest = math.inf
        self._open = True  # something was let in since the pace changed
        self._least = 0.0  # while nothing is let in, the pace does not fall below
        self._paced_at = -math.inf
        self._let_in: deque[float] = deque()

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return max(1, int(self._limit))

    def set_most(self, most: int) -> None:
        """Let at most so many be in flight from now on; one that is not adaptive takes all of it."""
        self._most = float(most)
        self._limit = min(self._limit, self._most) if self._adaptive else self._most

    def pace(self, now: float) -> float:
        """How many requests a second may be sent now; infinite while none was refused."""
        since = now - self._paced_at
        if self._phase == "free":
            return math.inf
        if self._phase == "doubling" and not self._open:
            return self._highest
        if self._phase == "doubling":
            return self._highest * 2.0 ** min(since / DOUBLING_S, 20.0)
        return self._highest * (1.0 + DROP * ((since - RETURN_S) / RETURN_S) ** 3)

    def answered(self, now: float, sent_at: float, in_flight: int) -> None:
        """A request was let in; `in_flight` counts it. A limit that is not reached does not grow."""
        if not self._open and sent_at >= self._paced_at:
            self._open = True
            self._paced_at = now if self._phase == "doubling" else self._paced_at  # the doubling begins
        self._let_in.append(now)
        self._forget(now)
        if self._adaptive and in_flight >= self.limit:
            self._limit = min(self._most, self._limit + (1.0 if self._ramping else 1.0 / self._limit))

    def refused(self, now: float, sent_at: float) -> None:
        """Too many requests. Those of one change of the pace count once, those of a server that lets none in not at all."""
        if not self._adaptive or sent_at < self._paced_at + SETTLE_S:
            return
        if self._phase == "doubling" and not self._open:
            return
        if self._phase == "free":
            self._phase, self._highest = "doubling", FIRST_PACE
        elif self._open:
            self._phase, self._highest = "holding", max(SLOWEST, self._held(now))
            self._least = self._highest / 2
        else:
            self._highest = max(self._least, self.pace(now))
        self._open, self._paced_at = False, now

    def troubled(self, now: float, sent_at: float) -> None:
        """A time-out, or a server that is full: fewer in flight."""
        if self._adaptive and sent_at >= self._cut_at:
            self._ramping, self._cut_at = False, now
            self._limit = max(1.0, self._limit * CUT)

    def restart(self) -> None:
        """After an outage: begin with one request."""
        if self._adaptive:
            self._limit, self._ramping = 1.0, True

    def _held(self, now: float) -> float:
        """The pace that the server would have taken: what it let in lately, where the pace has been about the same meanwhile."""
        pace = self.pace(now)
        if self._phase == "doubling" or now - self._paced_at < _WINDOW_S:
            return pace * HASTY
        self._forget(now)
        return max(pace / 2, min(pace, len(self._let_in) / _WINDOW_S))

    def _forget(self, now: float) -> None:
        while self._let_in and self._let_in[0] <= now - _WINDOW_S:
            self._let_in.popleft()
