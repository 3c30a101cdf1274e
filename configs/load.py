"""From a file or a recipe's name to a RunConfig; every mistake is found here, with file, line, value and what is accepted.

Invariant: `load(dump(config)) == config`. Reads only local files. Not covered: what the keys mean (`schema.py`).
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.engines import lasting
from configs.schema import HARMLESS, RunConfig

RECIPES = Path(__file__).parent / "recipes"
Location = tuple[str | int, ...]
_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair: YAML can spell it, but nothing that is kept can hold it."""


class ConfigError(Exception):
    """A mistake of whoever wrote the configuration; the message is one line per mistake."""


@dataclass(frozen=True, slots=True)
class _Document:
    """A parsed YAML file: its values and where every key and item was written: file:line, or an override."""

    name: str
    values: dict[str, Any]
    places: Mapping[Location, str]

    def place(self, location: Location) -> str:
        """file:line, or the override, of the longest known part of `location`."""
        known = (self.places[location[:end]] for end in range(len(location), 0, -1) if location[:end] in self.places)
        return next(known, self.name)


def recipes() -> dict[str, str]:
    """Name -> first comment line of every shipped recipe."""
    found = sorted(RECIPES.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in found}


def load(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a file or a recipe; apply `key.path=value` overrides; validate. Raises ConfigError."""
    try:
        document = _read(_find(source))
        for override in overrides:
            document = _override(document, override)
        halves = list(_halves(document, document.values))
    except RecursionError:
        raise ConfigError(f"{source}: cannot be read: a part of it holds itself, or too many others") from None
    if halves:
        raise ConfigError("\n".join(halves))
    try:
        return RunConfig.model_validate(document.values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(document, error))) from None


def dump(config: RunConfig) -> str:
    """The whole configuration, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def identity(config: RunConfig) -> dict[str, Any]:
    """What makes a run this run: everything but the harmless keys."""
    engines = {name: lasting(engine) for name, engine in config.engines.items()}
    harmless: dict[str, Any] = dict.fromkeys(HARMLESS, True)
    harmless |= {
        "teachers": {"__all__": {"budget", "licence"}},
        "questions": {"__all__": {"licence"}},
        "target": {"accepted"},
        "evaluation": {"teachers"},
    }
    return config.model_dump(mode="json", exclude=harmless) | {"engines": engines}


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """One line for every key, harmless ones left out, whose value differs: `search.beam: 4 -> 8`."""
    before, after = dict(_leaves(identity(old))), dict(_leaves(identity(new)))
    keys = [*before, *(key for key in after if key not in before)]
    absent = "absent"
    return [
        f"{k}: {before.get(k, absent)} -> {after.get(k, absent)}" for k in keys if before.get(k, absent) != after.get(k, absent)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _find(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or "/" in source:
        raise ConfigError(f"{source}: no such file")
    recipe = RECIPES / f"{source}.yaml"
    if recipe.is_file():
        return recipe
    raise ConfigError(f"{source}: neither a file nor a recipe; recipes: {', '.join(recipes())}")


def _read(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if node is None or not isinstance(values, dict):
        raise ConfigError(f"{path}:1: must be a mapping of keys to values, such as `name: my-run`")
    return _Document(name=str(path), values=values, places={key: f"{path}:{line}" for key, line in _lines(node)})


def _lines(node: yaml.Node, at: Location = ()) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*at, index)
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def _override(document: _Document, override: str) -> _Document:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: must be KEY=VALUE, such as search.beam=8")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None
    location = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    return _Document(
        name=document.name,
        values=_replaced(document.values, location, value, override),
        places={**{location[:end]: f"--set {override}" for end in range(1, len(location))}, **document.places}
        | {location: f"--set {override}"},
    )


def _replaced(container: Any, location: Location, value: Any, override: str) -> Any:
    if not location:
        return value
    head, rest = location[0], location[1:]
    if isinstance(container, list):
        if not isinstance(head, int) or head >= len(container):
            raise ConfigError(f"--set {override}: {head!r} is not an index into a list of {len(container)}")
        return [_replaced(item, rest, value, override) if i == head else item for i, item in enumerate(container)]
    inside = container if isinstance(container, dict) else {}
    return {**inside, str(head): _replaced(inside.get(str(head)), rest, value, override)}


def _halves(document: _Document, value: Any, at: Location = ()) -> Iterator[str]:
    """A line for every key and every text that holds half a character."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _halves(document, key, (*at, str(key)))
            yield from _halves(document, inner, (*at, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _halves(document, inner, (*at, index))
    elif isinstance(value, str) and (half := _HALF.search(value)):
        told = f"\\u{ord(half[0]):04x} is half a character; accepted: whole ones, written as themselves or as \\UXXXXXXXX"
        yield f"{document.place(at)}: {_spelled(at)}: {told}"


def _explain(document: _Document, error: ValidationError) -> Iterator[str]:
    mistakes = error.errors(include_url=False)
    for mistake in mistakes:
        if any(other["loc"][: len(mistake["loc"])] == mistake["loc"] and other is not mistake for other in mistakes):
            continue  # a list that is short only because of a mistake inside it
        location = _without_tags(document.values, mistake["loc"], whole=mistake["type"] == "value_error") or _named(
            mistake["msg"]
        )
        place = document.place(location)
        key = _spelled(location)
        if mistake["type"] == "extra_forbidden":
            yield f"{place}: {key}: unknown key{_suggestion(location, mistake['loc'])}"
        elif mistake["type"] == "missing":
            yield f"{place}: {key}: missing, must be given"
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            shown = "" if isinstance(mistake["input"], dict | list | BaseModel) else f", not {mistake['input']!r}"
            yield f"{place}: {message}{shown}" if message.startswith(key) else f"{place}: {key}: {message}{shown}"


def _named(message: str) -> Location:
    """The location that a message of our own validators begins with: `Value error, teachers[0].engine: ...`."""
    words = re.findall(r"\w+", message.removeprefix("Value error, ").partition(":")[0])
    return tuple(int(word) if word.isdigit() else word for word in words)


def _without_tags(values: Any, location: Location, *, whole: bool) -> Location:
    """Pydantic's location less the names of union members, which are no keys of the file; `whole`: of a part, not of a key."""
    kept: list[str | int] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1 and not whole
        inside: Mapping[Any, Any] = (
            dict(enumerate(values)) if isinstance(values, list) else values if isinstance(values, Mapping) else {}
        )
        if part in inside:
            values = inside[part]
        elif not last or not isinstance(values, Mapping | list) or part == "[key]":
            continue
        kept.append(part)
    return tuple(kept)


def _spelled(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _suggestion(location: Location, tagged: Location) -> str:
    accepted = _accepted(RunConfig, tagged[:-1])
    close = difflib.get_close_matches(str(location[-1]), accepted, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} accepted: {', '.join(accepted)}"


def _accepted(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the part at `location` (as pydantic spells it, union tags included) accepts."""
    kinds: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, str):
            fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
            kinds = [k for field in fields for k in _models(field.annotation)] or [k for k in kinds if part in _tags(k)] or kinds
    return sorted({name for kind in kinds for name in kind.model_fields})


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """The values by which a member of a union is chosen."""
    return typing.get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
