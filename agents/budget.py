"""Caps in money and tokens, for the run and for each agent: reserved before a call, settled after it.

A call reserves the most that it may cost. When that does not fit beside what is reserved, the call waits until others are
settled; when nothing is out that could free anything, `BudgetSpent`.
Invariant: what is spent never exceeds a cap, as long as the reservation bounds the cost; what earlier lives of the run have
spent counts. Not covered: prices (`configs.engines.Price`), keeping what was spent (the store counts it with each call).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from agents.errors import BudgetSpent
from configs.schema import Budget as Cap

_UNIT = 1e9


@dataclass(slots=True)
class _Account:
    """One cap, what is spent of it, and what is reserved; `refused` is what the last call that did not fit might have taken."""

    name: str
    agent: str | None
    cap: Cap
    usd: float = 0.0
    tokens: int = 0
    reserved_usd: float = 0.0
    reserved_tokens: int = 0
    out: int = 0
    refused: tuple[float, int] = (0.0, 0)

    def holds(self, usd: float, tokens: int) -> bool:
        room = self.cap.usd is None or self.usd + self.reserved_usd + usd <= self.cap.usd + 1e-12
        return room and (self.cap.tokens is None or self.tokens + self.reserved_tokens + tokens <= self.cap.tokens)

    def told(self) -> str:
        """How it stands, and what the next call might cost."""
        usd, tokens = self.refused
        parts = []
        if self.cap.usd is not None:
            parts.append(f"{self.usd:.6f} of {self.cap.usd:g} US dollars are spent, and the next call may cost {usd:.6f}")
        if self.cap.tokens is not None:
            parts.append(f"{self.tokens} of {self.cap.tokens} tokens are spent, and the next call may take {tokens}")
        return f"{self.name}: {'; '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call may cost at most."""

    agent: str
    usd: float
    tokens: int


class Budget:
    """All accounts of a run. `counts` are the store's, of earlier lives."""

    def __init__(self, run: Cap, agents: Mapping[str, Cap], counts: Mapping[str, int]) -> None:
        self._run = _Account("budget", None, run)
        self._agents = {agent: _Account(f"budget of {agent}", agent, cap) for agent, cap in agents.items()}
        for name, value in counts.items():
            kind, _, agent = name.removeprefix("spent.").partition(".")
            if name.startswith("spent."):
                self._add(agent, value / _UNIT if kind == "billionths" else 0.0, value if kind == "tokens" else 0)
        self._settled = asyncio.Condition()

    async def recap(self, run: Cap, agents: Mapping[str, Cap]) -> None:
        """Other caps hold from now on; who waits looks again."""
        async with self._settled:
            self._run.cap = run
            for agent, cap in agents.items():
                self._agents[agent].cap = cap
            self._settled.notify_all()

    async def reserve(self, agent: str, usd: float, tokens: int) -> Reservation:
        """Set aside what a call of `agent` may cost at most; waits for others. Raises `BudgetSpent`."""
        reservation = Reservation(agent, usd, tokens)
        async with self._settled:
            while full := [account for account in self._of(agent) if not account.holds(usd, tokens)]:
                if account := next((account for account in full if not account.out), None):
                    account.refused = usd, tokens
                    raise BudgetSpent(account.told(), account.agent)
                await self._settled.wait()
            self._reserve(reservation, 1)
        return reservation

    async def settle(self, reservation: Reservation, usd: float | None, tokens: int) -> None:
        """The call cost this much; 0 for one that was not made."""
        async with self._settled:
            self._reserve(reservation, -1)
            self._add(reservation.agent, usd or 0.0, tokens)
            self._settled.notify_all()

    async def spend(self, reservation: Reservation, usd: float | None, tokens: int) -> bool:
        """A try of the call failed, and cost this much all the same; whether what is reserved still has room for another."""
        async with self._settled:
            self._add(reservation.agent, usd or 0.0, tokens)
            return all(account.holds(0.0, 0) for account in self._of(reservation.agent))

    def told(self, agent: str | None) -> str:
        """How the budget of an agent, or of the run, stands now that a call did not fit into it."""
        return (self._agents[agent] if agent else self._run).told()

    def _of(self, agent: str) -> list[_Account]:
        own = self._agents.get(agent)
        return [own, self._run] if own else [self._run]

    def _reserve(self, reservation: Reservation, sign: int) -> None:
        for account in self._of(reservation.agent):
            account.reserved_usd = max(0.0, account.reserved_usd + sign * reservation.usd)
            account.reserved_tokens += sign * reservation.tokens
            account.out += sign

    def _add(self, agent: str, usd: float, tokens: int) -> None:
        for account in self._of(agent):
            account.usd += usd
            account.tokens += tokens
