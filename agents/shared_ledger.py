"""A ledger that several runs share: what one has paid for, the others use.

Invariant: of living runs only one makes a request at a time; the others wait for its row. A run that dies leaves claims that
end by themselves, or when it is resumed. A run's own database may be shared too: it is read, never changed.
Not covered: what a run keeps of a shared call (`ledger.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from store.store import Store, holds_run, open_store
from store.types import Call, Failure

CLAIM_S = 30.0
"""How long a claim outlives a process that has died."""
LOOK_S = 0.2
"""Between two looks at a request that another run is making."""


class SharedLedger:
    """What `open_shared_ledger` gives."""

    def __init__(self, store: Store, owner: str, *, writable: bool, claim_s: float) -> None:
        self._store = store
        self._owner = owner
        self._writable = writable
        self._claim_s = claim_s

    async def claim(self, key: str) -> Call | None:
        """The call, if another run has made it or is making it now; None: it is ours to make, then `record` or `release`."""
        while not (call := await self._store.call(key)) and self._writable:
            found = await self._store.claim_call(key, self._owner, self._claim_s)
            if isinstance(found, Call):
                return found
            if found:
                return None
            await asyncio.sleep(LOOK_S)
        return call

    async def failures(self, subject: str) -> list[Failure]:
        """The failures about a subject, of the run whose database this is."""
        return await self._store.failures_about(subject)

    async def record(self, call: Call) -> None:
        """Keep a call for all; its claim ends."""
        if self._writable:
            await self._store.record_calls([call])

    async def release(self, key: str) -> None:
        """Give up a claim."""
        if self._writable:
            await self._store.release_claim(key, self._owner)

    async def keep_claims(self) -> None:
        """Let the claims of this run last, for ever."""
        while True:
            await asyncio.sleep(self._claim_s / 3)
            await self._store.renew_claims(self._owner, self._claim_s)


@asynccontextmanager
async def open_shared_ledger(path: Path, *, owner: str, replay: bool, claim_s: float = CLAIM_S) -> AsyncIterator[SharedLedger]:
    """Open the ledger at `path`, or make it; `replay` only reads. `owner` is the run, in all its lives. Raises `StoreError`."""
    foreign = replay or await holds_run(path)
    async with open_store(path, create=not foreign, read_only=foreign) as store:
        if not foreign:
            await store.release_claims(owner)  # of a life that was killed
        shared = SharedLedger(store, owner, writable=not foreign, claim_s=claim_s)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(shared.keep_claims()) if not foreign else None
            try:
                yield shared
            finally:
                if keeping:
                    keeping.cancel()
