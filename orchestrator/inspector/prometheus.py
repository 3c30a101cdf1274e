"""The run's counts in Prometheus' text format.

Invariant: names end in their unit or in `_total`; labels are few: agents, states, kinds. Not covered: who scrapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from orchestrator.inspector.shapes import RunView


def exposition(view: RunView, watchers: int) -> bytes:
    """Everything of a run that moves, as text."""
    return generate_latest(_Collector(view, watchers))  # pyright: ignore[reportArgumentType] - it has what is needed: collect()


class _Collector:
    def __init__(self, view: RunView, watchers: int) -> None:
        self._view = view
        self._watchers = watchers

    def collect(self) -> Iterable[Metric]:
        view = self._view
        yield _gauge("peripatos_run_state", "The state that the run is in", "state", {view.state: 1})
        yield _gauge("peripatos_questions", "Questions by state", "state", view.questions)
        yield _gauge("peripatos_nodes", "Nodes by state", "state", view.nodes)
        yield _gauge("peripatos_trajectories", "Trajectories by verdict", "verdict", view.trajectories)
        yield _counter("peripatos_tokens", "Tokens by kind", "kind", view.tokens)
        yield _counter("peripatos_failures", "Failures by kind", "kind", view.failures)
        agents = {agent.name: agent for agent in view.agents}
        yield _counter("peripatos_calls", "Calls by agent", "agent", {name: each.calls for name, each in agents.items()})
        yield _counter("peripatos_spent_tokens", "Tokens by agent", "agent", {name: a.tokens for name, a in agents.items()})
        yield _counter("peripatos_spent_usd", "US dollars by agent", "agent", {name: each.usd for name, each in agents.items()})
        yield _gauge(
            "peripatos_agent_asked", "1 while an agent can be asked", "agent", {n: a.state == "asked" for n, a in agents.items()}
        )
        engines = {each.name: each for each in view.engines}
        yield _gauge("peripatos_engine_in_flight", "Requests in flight", "engine", {n: e.in_flight for n, e in engines.items()})
        yield _gauge("peripatos_engine_waiting", "Requests that wait", "engine", {n: e.waiting for n, e in engines.items()})
        yield _counter("peripatos_updates", "Updates by student", "student", {each.name: each.updates for each in view.students})
        yield GaugeMetricFamily("peripatos_balance", "1 while the counts add up", value=float(view.balance))
        yield GaugeMetricFamily("peripatos_watchers", "Pages that follow the run", value=self._watchers)
        if view.solved_at is not None:
            yield GaugeMetricFamily("peripatos_last_solved_timestamp_seconds", "When a question was solved", value=view.solved_at)


def _gauge(name: str, text: str, label: str, values: Mapping[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, Any]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family
