"""Under which terms a run's calls are made: its budget, what is known already, and what it shares with other runs.

Invariant: what earlier lives of the run have spent counts, and what they have asked is not asked again.
Not covered: making a call (`agents.ledger`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agents.budget import Budget
from agents.ledger import Ledger, Terms
from agents.pauses import Pauses
from agents.shared_ledger import open_shared_ledger
from configs.schema import RunConfig
from store.store import Store
from store.types import Question, content_id


@asynccontextmanager
async def open_terms(config: RunConfig, store: Store, pauses: Pauses | None = None) -> AsyncIterator[Terms]:
    """The terms of one life of a run; the ledger that it shares is open."""
    caps = {teacher.name: teacher.budget for teacher in config.teachers}
    terms = Terms(
        keep=store,
        budget=Budget(config.budget, caps, await store.counts()),
        replay=config.replay,
        patience_s=config.limits.patience_s,
        grace_s=config.limits.grace_s,
        pauses=pauses or Pauses(),
    )
    if config.ledger is None:
        yield terms
        return
    run = await store.run()
    owner = content_id("owner", run and (run.id, run.started_at))  # a run with the same configuration is another one
    async with open_shared_ledger(config.ledger.absolute(), owner=owner, replay=config.replay) as shared:
        yield replace(terms, shared=shared)


async def ledger_of(question: Question, store: Store, terms: Terms) -> Ledger:
    """The calls about one question: those that were made, those that failed, and those to come."""
    failures = await store.failures_about(question.id)
    if terms.replay and terms.shared:
        failures += await terms.shared.failures(question.id)
    return Ledger(subject=question.id, known=await store.calls(question.id), terms=terms, failures=failures)
