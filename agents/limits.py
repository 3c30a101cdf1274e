"""The gate of one engine: who may ask it, and when; what failed goes back into the same queue.

    asked ──▶ queue ──in flight, pace, rates──▶ engine ──▶ answer
                ▲                                  │
                └────── not before a later time ◀──┤ failed
                                                   └──▶ error, after its last try; `Parked` when it fails for everyone

Invariant: every call ends, as an answer or as an error, within its tries and `give_up_s` after it was first sent; one that is
cancelled gives its place back. What was begun first goes first, so that a tree is finished while servers still hold its
prefixes, and nothing waits for ever; of one tree, and among equals, first come, first served. A retry has its old place.
Not covered: money (`budget.py`), rows (`ledger.py`), how much a server takes (`flow.py`), when it is parked (`breaker.py`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from agents.breaker import Breaker
from agents.errors import Broken, Parked, Quarantined, Retryable, Terminal, Throttled, TimedOut
from agents.flow import Flow
from configs.engines import EngineLimits

log = structlog.get_logger()
T = TypeVar("T")

SAME = 2
"""A request whose tries, at least so many, all failed in the same way while others were answered, goes into quarantine."""
MOST_TURNED_AWAY = 100
"""How often a request may be told that there are too many: no fault of its own."""
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 30.0
LAG_S = 0.05
"""How far a pace may catch up with its clock: timers are late."""
LOOK_S = 0.2
"""Between two looks at whether a parked engine is back."""


@dataclass(eq=False, slots=True)
class _Ticket:
    """One call's place in the queue. `way` is how it failed last, `same` how often in a row."""

    order: tuple[float, int]
    tokens: int
    granted: asyncio.Future[None] | None = None
    not_before: float = -math.inf
    first_sent_at: float | None = None
    sent_at: float = 0.0
    tries: int = 0
    turned_away: int = 0
    way: str = ""
    same: int = 0
    num_answers: int = 0


class _Rate:
    """So many units a minute, evenly. A taker may take more than is due; the next one then waits."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self.due_at = -math.inf

    def take(self, now: float, units: float) -> None:
        if self._interval_s:
            self.due_at = max(now - LAG_S, self.due_at) + units * self._interval_s

    def give_back(self, units: float) -> None:
        self.due_at -= units * self._interval_s


class Gate:
    """Admission to one engine. `adaptive` for servers, which may be down, slow or shared; `tries` bounds a call's failures."""

    def __init__(
        self,
        limits: EngineLimits | None = None,
        *,
        name: str = "engine",
        adaptive: bool = False,
        tries: int = 3,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.gone: Broken | None = None
        self._limits = limits or EngineLimits()
        self._adaptive = adaptive
        self._tries = tries
        self._tell = tell
        self._clock = clock
        self._flow = Flow(self._limits.in_flight, adaptive=adaptive)
        self._breaker = Breaker(self._limits.park_s)
        self._requests = _Rate(self._limits.requests_per_minute)
        self._tokens = _Rate(self._limits.tokens_per_minute)
        self._paced_until = -math.inf
        self._ready: list[tuple[tuple[float, int], _Ticket]] = []
        self._later: list[tuple[float, tuple[float, int], _Ticket]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._orders = itertools.count()
        self._in_flight = 0
        self._num_answers = 0
        self._chance = random.Random(name)  # for the waits only: no answer depends on it

    @property
    def parked(self) -> str | None:
        """Why the engine is not asked now; None when it is."""
        why = self.gone or self._breaker.parked_by
        return str(why) if why else None

    @property
    def in_flight(self) -> int:
        """How many requests are out."""
        return self._in_flight

    @property
    def limit(self) -> int:
        """How many may be out now."""
        return self._flow.limit

    @property
    def num_waiting(self) -> int:
        """How many wait for their turn, or for their next try."""
        return len(self._ready) + len(self._later)

    def set_most(self, in_flight: int) -> None:
        """From now on, at most so many requests may be out."""
        self._flow.set_most(in_flight)
        self._pump()

    @property
    def down_s(self) -> float:
        """For how long the engine has been parked; infinite when it is gone."""
        return math.inf if self.gone else self._breaker.down_s(self._clock())

    @property
    def may_look(self) -> bool:
        """Whether a call would be sent now, be it as the look at a parked engine."""
        return not self.gone and self._breaker.lets(self._clock())

    async def available(self) -> None:
        """Wait until the engine may be asked, or looked at. Raises `Broken` when it is gone for good."""
        while not self.may_look and not self.gone:  # noqa: ASYNC110 - time makes it true, too
            await asyncio.sleep(LOOK_S)
        if self.gone:
            raise self.gone

    async def ask(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        begun: float = 0.0,
        tokens: int = 0,
        used: Callable[[T], int] | None = None,
    ) -> T:
        """What `call` gives, when its turn has come and after as many tries as it may have.

        `begun` is when the question that it belongs to was begun, in seconds: the older one goes first. `tokens` is what it may
        take of the rate of tokens, `used` what it did take. Raises `Parked` while the engine is parked, `Quarantined`, or what
        `call` raised last.
        """
        ticket = _Ticket(order=(begun, next(self._orders)), tokens=tokens, num_answers=self._num_answers)
        while True:
            await self._admitted(ticket)
            try:
                value = await call()
            except Retryable as error:
                self._failed(ticket, error)
            except Broken as error:
                self._lost(error)
                raise
            except Terminal:  # an answer all the same
                self._answered(ticket)
                raise
            except BaseException:
                self._left(ticket)
                raise
            else:
                self._answered(ticket)
                if used:
                    self._tokens.give_back(tokens - used(value))
                return value

    # The queue

    async def _admitted(self, ticket: _Ticket) -> None:
        now = self._clock()
        if self.gone or not self._breaker.lets(now):
            raise Parked(f"{self.name} is not asked now: {self.parked}")
        if not self._ready and ticket.not_before <= now and self._may_go(now):
            return self._send(ticket, now)
        ticket.granted = granted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._later, (ticket.not_before, ticket.order, ticket))
        self._pump()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and not granted.exception():
                self._left(ticket)
            raise

    def _may_go(self, now: float) -> bool:
        return self._in_flight < self._flow.limit and now >= self._due_at and self._breaker.lets(now)

    @property
    def _due_at(self) -> float:
        return max(self._paced_until, self._requests.due_at, self._tokens.due_at)

    def _send(self, ticket: _Ticket, now: float) -> None:
        self._in_flight += 1
        ticket.sent_at = now
        ticket.first_sent_at = now if ticket.first_sent_at is None else ticket.first_sent_at
        self._breaker.sent(now)
        self._requests.take(now, 1)
        self._tokens.take(now, ticket.tokens)
        if math.isfinite(pace := self._flow.pace(now)):
            self._paced_until = max(now - LAG_S, self._paced_until) + 1.0 / pace

    def _pump(self) -> None:
        """Let go whoever may, and wake up when the next one may."""
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            _, order, ticket = heapq.heappop(self._later)
            heapq.heappush(self._ready, (order, ticket))
        while self._ready and self._may_go(now):
            _, ticket = heapq.heappop(self._ready)
            if ticket.granted and not ticket.granted.done():
                self._send(ticket, now)
                ticket.granted.set_result(None)
        if self._timer:
            self._timer.cancel()
        times = [self._later[0][0]] if self._later else []
        if self._ready and self._in_flight < self._flow.limit:
            times.append(max(self._due_at, self._breaker.looks_at))
        wait_s = max(0.001, min(times) - now) if times and math.isfinite(min(times)) else None
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._pump) if wait_s else None

    def _turn_away(self) -> None:
        """Everyone in the queue learns that the engine is not asked now."""
        waiting = [entry[-1] for entry in (*self._ready, *self._later)]
        self._ready, self._later = [], []
        for ticket in waiting:
            if ticket.granted and not ticket.granted.done():
                ticket.granted.set_exception(Parked(f"{self.name} is not asked now: {self.parked}"))

    # What came of a request

    def _answered(self, ticket: _Ticket) -> None:
        now = self._clock()
        self._num_answers += 1
        if self._breaker.answered(now):
            self._flow.restart()
            self._say("engine_back", f"engine {self.name} answers again")
        self._flow.answered(now, ticket.sent_at, self._in_flight)
        self._in_flight -= 1
        self._pump()

    def _left(self, ticket: _Ticket) -> None:
        self._breaker.left(ticket.sent_at)
        self._in_flight -= 1
        self._pump()

    def _lost(self, error: Broken) -> None:
        if not self.gone:
            self.gone = error
            self._say("engine_gone", f"engine {self.name} is gone: {error}")
        self._in_flight -= 1
        self._turn_away()

    def _failed(self, ticket: _Ticket, error: Retryable) -> None:
        """Set the time before which it is not sent again, or raise."""
        now = self._clock()
        self._in_flight -= 1
        if isinstance(error, Throttled) and error.counted:
            self._flow.refused(now, ticket.sent_at)
        elif isinstance(error, Throttled | TimedOut):
            self._flow.troubled(now, ticket.sent_at)
        if self._adaptive and self._breaker.failed(now, ticket.sent_at, error):
            self._say("engine_parked", f"engine {self.name} is parked, and looked at from time to time: {error}")
        if self.parked:
            self._turn_away()
        self._pump()
        if self.parked:  # it fails for everyone, and this request need not be at fault
            raise Parked(f"{self.name} is not asked now: {self.parked}") from error
        self._count(ticket, error, now)

    def _count(self, ticket: _Ticket, error: Retryable, now: float) -> None:
        if isinstance(error, Throttled):
            ticket.turned_away += 1
        else:
            ticket.tries += 1
            way = f"{type(error).__name__}: {error}"
            ticket.way, ticket.same = way, ticket.same + 1 if way == ticket.way else 1
        error.tries = ticket.tries + ticket.turned_away
        log.info("call_retried", engine=self.name, kind=type(error).__name__, error=str(error), tries=error.tries)
        wait_s = self._wait_s(ticket, error)
        sent_for_s = now + wait_s - (now if ticket.first_sent_at is None else ticket.first_sent_at)
        others_answered = self._num_answers > ticket.num_answers
        if ticket.tries >= self._tries and ticket.tries == ticket.same >= SAME and others_answered:
            raise self._quarantined(ticket, error) from error
        # while nobody is answered, the engine may be down: it is tried on until that is known, and then parked
        exhausted = ticket.tries >= self._tries and (others_answered or not self._adaptive)
        if exhausted or ticket.turned_away >= MOST_TURNED_AWAY or sent_for_s > self._limits.give_up_s:
            raise error
        ticket.not_before = now + wait_s

    def _quarantined(self, ticket: _Ticket, error: Retryable) -> Quarantined:
        found = Quarantined(ticket.way)
        found.tries, found.usage = error.tries, error.usage
        return found

    def _wait_s(self, ticket: _Ticket, error: Retryable) -> float:
        if isinstance(error, Throttled) and error.counted and error.after_s is None:
            return 0.1 * self._chance.uniform(0.5, 1.5)  # the pace does the rest
        backoff_s = FIRST_WAIT_S * 2.0 ** min(ticket.tries + ticket.turned_away - 1, 16)
        return max(min(LONGEST_WAIT_S, backoff_s) * self._chance.uniform(0.75, 1.25), error.after_s or 0.0)

    def _say(self, event: str, text: str) -> None:
        log.info(event, engine=self.name, text=text)
        self._tell(text)
