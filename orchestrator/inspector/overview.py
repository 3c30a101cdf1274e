"""The run at a glance: from counts and what the living process tells to what a person has to know.

Pure. Invariant: every figure is from the store; what nobody has told is None, not zero. Not covered: pages of rows
(`store.pages`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.schema import RunConfig
from orchestrator.inspector.shapes import (
    AgentLine,
    Alert,
    EngineLine,
    GateLine,
    Note,
    RunState,
    RunView,
    StageLine,
    StudentLine,
)
from orchestrator.summary import STAGES, rulings_of
from store.control import Pulse
from store.lines import Activity
from store.settling import SCORE_UNIT, THIRDS
from store.writes import COST_UNIT, LATENCIES_S

LOST_S = 20.0
"""A process that has not been heard for so long is not there any more; it says something every second."""
NO_SUCCESS_S = 300.0
"""Without a success for so long, a person is told."""
MANY_FAILURES = 0.2
"""A share of failures among recent calls that a person is told of."""


def overview(config: RunConfig, activity: Activity, run: str, now: float, *, controls: bool) -> RunView:
    """All of the run at one moment; `config` with what was set since."""
    counts, pulse = activity.counts, activity.pulses[0] if activity.pulses else None
    state = _state(activity, pulse, now)
    alive: Mapping[str, Any] = pulse.state if pulse and state in ("running", "paused") else {}
    questions = {each: counts.get(f"questions.{each}", 0) for each in ("pending", "leased", "solved", "unsolved")}
    agents, recent_s = _agents(config, activity, alive), activity.recent_s
    recent_failures = _under(activity.recent, "failed.")
    settled_s = (activity.recent.get("questions.solved", 0) + activity.recent.get("questions.unsolved", 0)) / recent_s
    accepted, wanted = counts.get("trajectories.accepted", 0), config.target.accepted
    accepted_s = activity.recent.get("trajectories.accepted", 0) / recent_s
    students = _students(config, activity, alive)
    return RunView(
        name=config.name,
        id=run,
        state=state,
        now=now,
        seq=activity.seq,
        started_at=activity.started_at,
        finished_at=activity.finished_at,
        beat_at=pulse.beat_at if pulse else None,
        pid=alive.get("pid"),
        stages=_stages(activity, alive),
        questions=questions,
        unsolved=_under(counts, "unsolved."),
        nodes=_under(counts, "nodes."),
        trajectories=_under(counts, "trajectories."),
        rulings=rulings_of(counts),
        balance=_balances(counts),
        accepted=accepted,
        wanted=wanted,
        misleading=counts.get("standings.misleading", 0),
        mean_score=_mean_score(counts),
        tokens={kind: counts.get(f"tokens.{kind}", 0) for kind in ("prompt", "completion", "cached")},
        calls=sum(value for name, value in _under(counts, "calls.").items() if name != "reused"),
        calls_reused=counts.get("calls.reused", 0),
        recent_s=recent_s,
        settled_per_minute=60 * settled_s,
        tokens_per_s=activity.recent.get("tokens.completion", 0) / recent_s,
        calls_per_minute=60 * sum(_under(activity.recent, "spent.calls.").values()) / recent_s,
        usd=sum(_under(counts, "spent.billionths.").values()) / COST_UNIT,
        cap_usd=config.budget.usd,
        cap_tokens=config.budget.tokens,
        eta_s=_eta_s(questions, settled_s, accepted, wanted, accepted_s) if state == "running" else None,
        solved_at=activity.solved_at,
        accepted_at=activity.accepted_at,
        answered_at=activity.answered_at,
        failures=_under(counts, "failed."),
        recent_failures=recent_failures,
        agents=agents,
        engines=[EngineLine(name=name, **each) for name, each in alive.get("engines", {}).items()],
        students=students,
        alerts=_alerts(config, activity, state, alive, questions, agents, students, now),
        notes=[Note(**each) for each in alive.get("notes", ())],
        in_flight_questions=alive.get("questions", config.limits.questions),
        controls=controls,
    )


def gates(counts: Mapping[str, int]) -> list[GateLine]:
    """How each student's gates stood, by round and style."""
    found: dict[tuple[str, int, str], dict[str, int]] = {}
    for name, value in _under(counts, "gates.").items():
        number, gate, style, student = name.split(".", 3)
        found.setdefault((student, int(number), style), {})["open" if gate == "1" else "shut"] = value
    return [
        GateLine(student=student, round=number, style=style, open=each.get("open", 0), shut=each.get("shut", 0))
        for (student, number, style), each in sorted(found.items())
    ]


def latencies(counts: Mapping[str, int], agent: str) -> dict[int, int]:
    """How many calls of an agent fell into each bucket of `LATENCIES_S`."""
    return {
        int(number): value
        for key, value in _under(counts, "latency.").items()
        for number, _, name in [key.partition(".")]
        if name == agent and number.isdigit()
    }


def latency_s(buckets: Mapping[int, int], share: float) -> float | None:
    """The upper bound of the bucket that holds this share of the latencies, counted from the shortest; None of none."""
    total, seen = sum(buckets.values()), 0
    for bucket, num in sorted(buckets.items()):
        seen += num
        if seen >= share * total:
            return LATENCIES_S[min(bucket, len(LATENCIES_S) - 1)]
    return None


def _under(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counts whose names begin so, by the rest of their names; those that are zero are left out."""
    return {name.removeprefix(prefix): value for name, value in sorted(counts.items()) if name.startswith(prefix) and value}


def _state(activity: Activity, pulse: Pulse | None, now: float) -> RunState:
    if activity.state != "running":
        return "finished" if activity.state == "finished" else "interrupted"
    if pulse is None or now - pulse.beat_at > LOST_S:
        return "lost"
    return "paused" if pulse.state.get("paused", {}).get("") else "running"


def _stages(activity: Activity, alive: Mapping[str, Any]) -> list[StageLine]:
    told: Mapping[str, Mapping[str, Any]] = alive.get("stages", {})
    return [
        StageLine(
            name=name,
            seconds=activity.seconds.get(name, 0.0) + told.get(name, {}).get("seconds", 0.0),
            active=name in told,
            done=told.get(name, {}).get("done"),
            total=told.get(name, {}).get("total"),
        )
        for name in STAGES
    ]


def _agents(config: RunConfig, activity: Activity, alive: Mapping[str, Any]) -> list[AgentLine]:
    asked = [("teacher", each, each.budget) for each in config.teachers]
    asked += [("prover", config.prover, None)] if config.prover else []
    asked += [("judge", each, None) for each in config.judges]
    return [
        _agent(role, each.name, each.engine, budget, activity, alive)  # pyright: ignore[reportArgumentType] - the three roles
        for role, each, budget in asked
    ]


def _agent(role: Any, name: str, engine: str, budget: Any, activity: Activity, alive: Mapping[str, Any]) -> AgentLine:
    counts, recent = activity.counts, activity.recent
    state, why = _agent_state(name, engine, alive)
    buckets = latencies(recent, name) or latencies(activity.latencies, name)
    return AgentLine(
        name=name,
        role=role,
        engine=engine,
        state=state,
        why=why,
        calls=counts.get(f"spent.calls.{name}", 0),
        recent_calls=recent.get(f"spent.calls.{name}", 0),
        tokens=counts.get(f"spent.tokens.{name}", 0),
        usd=counts.get(f"spent.billionths.{name}", 0) / COST_UNIT,
        cap_usd=budget.usd if budget else None,
        cap_tokens=budget.tokens if budget else None,
        latency_p50_s=latency_s(buckets, 0.5),
        latency_p95_s=latency_s(buckets, 0.95),
        won=_won(counts, name) if role == "teacher" else None,
    )


def _agent_state(name: str, engine: str, alive: Mapping[str, Any]) -> tuple[Any, str]:
    if by := alive.get("paused", {}).get(name):
        return "paused", f"by {by}"
    told = alive.get("engines", {}).get(engine)
    if told is None:
        return "idle", ""  # its engine is not open
    for state in ("gone", "parked"):
        if told[state]:
            return state, told[state]
    return "asked", ""


def _won(counts: Mapping[str, int], name: str) -> dict[str, float] | None:
    all_of = {third: sum(_under(counts, f"won.{third}.").values()) for third in THIRDS}
    if not any(all_of.values()):
        return None
    return {third: counts.get(f"won.{third}.{name}", 0) / all_of[third] for third in THIRDS if all_of[third]}


def _students(config: RunConfig, activity: Activity, alive: Mapping[str, Any]) -> list[StudentLine]:
    told: Mapping[str, Any] = alive.get("students", {})
    return [
        StudentLine(
            name=each.name,
            model=each.model,
            updates=activity.updates.get(each.name, 0),
            of=told.get(each.name, {}).get("of"),
            final=activity.finals.get(each.name),
            stopped=activity.stopped.get(each.name),
            routed=activity.counts.get(f"routes.{each.name}", 0),
        )
        for each in config.students
    ]


def _balances(counts: Mapping[str, int]) -> bool:
    """No count has fallen below zero, and every reason why a question is unsolved belongs to one that is."""
    unsolved = sum(_under(counts, "unsolved.").values())
    return min(counts.values(), default=0) >= 0 and unsolved == counts.get("questions.unsolved", 0)


def _mean_score(counts: Mapping[str, int]) -> float | None:
    scored = counts.get("score.count", 0)
    return counts["score.billionths"] / SCORE_UNIT / scored if scored else None


def _eta_s(questions: Mapping[str, int], settled_s: float, accepted: int, wanted: int | None, accepted_s: float) -> float | None:
    """Seconds until all questions are settled, or enough is accepted, at the recent pace; None without one."""
    left = questions["pending"] + questions["leased"]
    found = [left / settled_s] if settled_s else []
    if wanted and accepted_s:
        found.append(max(0, wanted - accepted) / accepted_s)
    return min(found) if found and left else None


def _alerts(
    config: RunConfig,
    activity: Activity,
    state: RunState,
    alive: Mapping[str, Any],
    questions: Mapping[str, int],
    agents: Sequence[AgentLine],
    students: Sequence[StudentLine],
    now: float,
) -> list[Alert]:
    found = []
    if state == "lost":
        found.append(Alert(kind="lost", text="its process is gone; the same command goes on where it was"))
    for subject, by in alive.get("paused", {}).items():
        found.append(Alert(kind="paused", text=f"{f'teacher {subject}' if subject else 'the run'} is paused by {by}"))
    open_questions = questions["pending"] + questions["leased"]
    if state == "running" and open_questions and (search := alive.get("stages", {}).get("search")):
        since = max(activity.solved_at or 0.0, now - search["seconds"])  # in this life of the run
        if now - since > NO_SUCCESS_S:
            answered = f"; the last answer came {_ago(now, activity.answered_at)}" if activity.answered_at else ""
            found.append(Alert(kind="no_success", text=f"no question was solved for {(now - since) / 60:.0f} minutes{answered}"))
    found += [
        Alert(kind="parked", text=f"{agent.role} {agent.name} is {agent.state}: {agent.why}")
        for agent in agents
        if agent.state in ("parked", "gone")
    ]
    calls = sum(_under(activity.recent, "spent.calls.").values())
    failed = sum(_under(activity.recent, "failed.").values())
    if state in ("running", "paused") and failed > MANY_FAILURES * (calls + failed):
        found.append(
            Alert(kind="failures", text=f"{failed} failures beside {calls} answers in {activity.recent_s / 60:.0f} minutes")
        )
    spent = sum(_under(activity.counts, "spent.billionths.").values()) / COST_UNIT
    if config.budget.usd and spent >= 0.9 * config.budget.usd:
        found.append(Alert(kind="budget", text=f"{spent:.4f} of {config.budget.usd:g} US dollars are spent"))
    tokens = sum(_under(activity.counts, "spent.tokens.").values())
    if config.budget.tokens and tokens >= 0.9 * config.budget.tokens:
        found.append(Alert(kind="budget", text=f"{tokens} of {config.budget.tokens} tokens are spent"))
    found += [Alert(kind="stopped", text=f"student {each.name}: {each.stopped}") for each in students if each.stopped]
    return found


def _ago(now: float, then: float) -> str:
    return f"{(now - then) / 60:.0f} minutes ago"
