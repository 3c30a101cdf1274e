"""What people ask of a run, checked and done: pause, resume, requeue, set.

    asked, by a command or at the page ──▶ a row ──watch──▶ pauses, limits, budget of the living run ──▶ answered

Invariant: the log of what was asked is what the run goes by, also in its next life; what was set holds until the same key is
changed in the configuration's file. Not covered: the rows (`store.control`), what a pause holds up (`agents.pauses`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from agents.pauses import RUN, Pauses
from configs.load import ConfigError, load
from configs.schema import RunConfig
from orchestrator.folder import Folder
from store.control import DONE, Control, Verb
from store.store import Store

log = structlog.get_logger()
Location = tuple[str | int, ...]

LOOK_S = 0.5
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def settable(config: RunConfig) -> dict[str, Location]:
    """The keys that may be set while a run lives, and where each stands in the configuration."""
    found: dict[str, Location] = {"limits.questions": ("limits", "questions")}
    found |= {f"budget.{unit}": ("budget", unit) for unit in ("usd", "tokens")}
    for index, teacher in enumerate(config.teachers):
        found |= {f"teachers.{teacher.name}.budget.{unit}": ("teachers", index, "budget", unit) for unit in ("usd", "tokens")}
    found |= {f"engines.{name}.limits.in_flight": ("engines", name, "limits", "in_flight") for name in config.engines}
    return found


def configured(config: RunConfig, controls: Iterable[Control]) -> tuple[RunConfig, list[Control]]:
    """The configuration with what was set, and what was set and has been changed in its file since, and so does not hold."""
    values, places = config.model_dump(mode="json"), settable(config)
    last = {each.subject: each for each in controls if each.verb == "set" and each.subject in places}
    dropped = [each for each in last.values() if each.was != json.dumps(_at(values, places[each.subject]))]
    for each in last.values():
        if each not in dropped:
            _put(values, places[each.subject], json.loads(each.value or "null"))
    return (RunConfig.model_validate(values) if last else config), dropped


def paused(controls: Iterable[Control]) -> dict[str, str]:
    """Who paused what is paused: a teacher's name, or "" for the run."""
    found: dict[str, str] = {}
    for each in controls:
        if each.verb == "pause":
            found[each.subject] = each.by
        elif each.verb == "resume":
            found.pop(each.subject, None)
    return found


async def ask(store: Store, folder: Folder, verb: Verb, subject: str, value: str | None, *, by: str) -> int:
    """Keep what is asked of the run in `folder`, once it is known to make sense; its number.

    Raises `ConfigError` for what does not, `StoreError` when a question cannot be requeued.
    """
    config = await asyncio.to_thread(load, str(folder.config))
    if verb in ("pause", "resume"):
        names = [teacher.name for teacher in config.teachers]
        if subject not in (RUN, *names):
            raise ConfigError(f"{verb}: no teacher is called {subject!r}; teachers: {', '.join(names)}")
        return await store.ask(verb, subject, by=by)
    if verb == "requeue":
        return await store.ask(verb, subject, by=by)
    places = settable(config)
    if subject not in places:
        raise ConfigError(f"set: {subject!r} cannot be changed while a run lives; accepted: {', '.join(places)}")
    location = places[subject]
    changed = await asyncio.to_thread(_changed, folder, location, subject, value)
    was = json.dumps(_at(config.model_dump(mode="json"), location))
    return await store.ask(verb, subject, json.dumps(_at(changed.model_dump(mode="json"), location)), was=was, by=by)


def _changed(folder: Folder, location: Location, subject: str, value: str | None) -> RunConfig:
    if value and value != "null" and not _NUMBER.fullmatch(value):
        raise ConfigError(f"set {subject}: {value[:40]!r} is no number; accepted: a number, or nothing for no limit")
    override = f"{'.'.join(str(part) for part in location)}={value or ''}"
    try:
        return load(str(folder.config), [override])
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"--set {override}", f"set {subject}={value or ''}")) from None


def _at(values: Any, location: Location) -> Any:
    for part in location:
        values = values[part]
    return values


def _put(values: Any, location: Location, value: Any) -> None:
    _at(values, location[:-1])[location[-1]] = value


Listener = Callable[[RunConfig], Awaitable[None]]


@dataclass(kw_only=True)
class Controls:
    """Those of a living run. `config` is what holds now, `file` what the run was started with."""

    file: RunConfig
    store: Store
    tell: Callable[[str], None]
    pauses: Pauses
    config: RunConfig = field(init=False)
    _asked: list[Control] = field(default_factory=list)
    _listeners: list[Listener] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.file

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Take up what earlier lives were asked, and do what is asked until the end of this."""
        await self._begin()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            try:
                yield
            finally:
                watching.cancel()

    async def _begin(self) -> None:
        await self._look()
        for each in configured(self.file, self._asked)[1]:
            self.tell(
                f"{each.subject}, which {each.by} set to {each.value}, stands otherwise in the configuration now: that holds"
            )
        for subject, by in self.pauses.by.items():
            self.tell(f"{f'teacher {subject}' if subject else 'the run'} is paused by {by}, until `resume`")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    def listen(self, listener: Listener) -> None:
        """Call this with the configuration that holds after each change, until `forget`."""
        self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    async def _look(self) -> None:
        known = self._asked[-1].id if self._asked else 0
        while new := await self.store.controls(known):
            self._asked += new
            known = new[-1].id
            self.config = configured(self.file, self._asked)[0]
            self.pauses.by = paused(self._asked)
            for listener in list(self._listeners):
                await listener(self.config)
            for each in new:
                log.info("control", verb=each.verb, subject=each.subject, value=each.value, by=each.by)
                if not each.outcome:
                    await self.store.answer(each.id, DONE)
