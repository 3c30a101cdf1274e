"""One row of a known format -> Question: pure.

Invariant: `question` returns a complete question, whose answer is of its kind, or raises `BadValue` with one short reason.
Numbers are kept exactly, written plainly ("145.0" is "145", "1,080" is "1080"); the answer of a choice question is a letter;
that of a boolean one is yes or no, of entailment a label; several spans are a list in JSON.
Not covered: where rows come from (`rows`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from configs.schema import File
from orchestrator.answers.choices import letter_at, read_letter
from orchestrator.answers.labels import LABELS, read_label, read_verdict
from orchestrator.answers.quantities import read
from orchestrator.answers.spans import listed, read_span
from orchestrator.questions.rows import Row
from store.types import Kind, Question, content_id

MOST_CHOICES = 26
ACCEPTED = {
    "fields": "the columns that `fields` names, and answers that `answers` names",
    "gsm8k": "`question`, and `answer` with the number after ####",
    "svamp": "`Body`, `Question`, and a number as `Answer`",
    "mawps": "`input`, and a number as `target`",
    "bbh": "`input` with options (A), (B), ..., and `target` as a letter such as (B); or a yes/no or number target",
    "strategyqa": "`question`, and true or false as `answer`",
}
"""What each format takes, in words for the user."""


class BadValue(Exception):
    """A row cannot become a question; the message is the reason."""


class Parts(NamedTuple):
    """What a format finds in a row."""

    text: str
    answer: str | None
    kind: Kind
    choices: tuple[str, ...] = ()
    context: str | None = None
    aliases: tuple[str, ...] = ()


def question(row: Row, source: File) -> Question:
    """Return the question of a row. Raises BadValue."""
    columns = row.columns
    match source.format:
        case "gsm8k":
            parts = Parts(_text(columns, "question"), _after_hashes(_text(columns, "answer")), "math")
        case "svamp":
            parts = Parts(_joined(_text(columns, "Body"), _text(columns, "Question")), _number(column(columns, "Answer")), "math")
        case "mawps":
            parts = Parts(_text(columns, "input"), _number(column(columns, "target")), "math")
        case "bbh":
            parts = _bbh(_text(columns, "input"), _text(columns, "target"))
        case "strategyqa":
            parts = Parts(_text(columns, "question"), _verdict(column(columns, "answer")), "boolean")
        case "fields":
            parts = _fields(columns, source)
    identity = (parts.text, parts.answer, parts.kind, parts.choices, *((parts.context,) if parts.context else ()))
    identity += (parts.aliases,) if parts.aliases else ()
    try:
        identifier = content_id("question", *identity)
    except UnicodeEncodeError as error:
        raise BadValue("text with half a character (a lone surrogate)") from error
    return Question(id=identifier, **parts._asdict(), source=source.path, meta={"row": row.where})


def column(columns: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column; a dotted name reaches into nested objects and, by number, into lists."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise BadValue(f"no column {name!r}; columns: {', '.join(map(str, columns)) or 'none'}")
    return value


def _text(columns: Mapping[str, Any], name: str) -> str:
    value = column(columns, name)
    if not isinstance(value, str):
        raise BadValue(f"{name}: not text but {_shown(value)}")
    if not value.strip():
        raise BadValue(f"{name}: empty")
    return value.strip()


def _shown(value: object) -> str:
    text = "nothing" if value is None else f"{value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _joined(body: str, asked: str) -> str:
    """Join a body and its question; a body such as "If he has 3 apples left" is the first half of a sentence."""
    if body.endswith((".", "!", "?", '"')):
        return f"{body} {asked}"
    first = asked.split(maxsplit=1)[0]
    lowered = asked[0].lower() + asked[1:] if first in ("How", "What", "Which", "Who") else asked
    return f"{body.rstrip(',')}, {lowered}"


# ---------------------------------------------------------------------------------------------------------------- answers


def _number(value: object) -> str:
    """Return a number as plain text; other mathematics as it is written."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise BadValue(f"answer: not a number but {_shown(value)}")
    text = _plain(value) if not isinstance(value, str) else value.strip()
    if not text:
        raise BadValue("answer: empty")
    quantity = read(text) if re.fullmatch(r"[-+]?[0-9.,]+", text) else None
    return str(quantity) if quantity else text


def _plain(value: float | Decimal) -> str:
    """Write a number without an exponent, exactly as many digits as tell it from its neighbours."""
    try:
        exact = Decimal(str(value))
    except (ValueError, ArithmeticError) as error:  # more digits than Python converts
        raise BadValue("answer: a number too long to be one") from error
    if not exact.is_finite():
        raise BadValue(f"answer: not a number but {value}")
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _verdict(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    word = value.strip().casefold() if isinstance(value, str) else ""
    if word not in ("yes", "no", "true", "false"):
        raise BadValue(f"answer: not yes, no, true or false but {_shown(value)}")
    return read_verdict(word) or word


def _letter(value: object, choices: tuple[str, ...]) -> str:
    """Return the letter of an answer that is a letter, an option's text, or an index from 0 (a number, not text)."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadValue(f"answer: not an option but {_shown(value)}")
    if isinstance(value, str):
        letter = read_letter(value, choices)
    else:
        named = {letter_at(i) for i, choice in enumerate(choices) if choice == str(value)}
        named |= {letter_at(value)} if 0 <= value < len(choices) else set()
        letter = named.pop() if len(named) == 1 else None  # 1 among the options "1", "2" may be the first or the second
    if letter is None:
        raise BadValue(f"answer: {_shown(value)} is not plainly one of the {len(choices)} options")
    return letter


def _label(value: object) -> str:
    """Return the label of an answer that is one, or its number as data sets count them: 0, 1, 2."""
    number = value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if not isinstance(value, bool) and number in ("0", "1", "2"):
        return LABELS[int(number)]
    label = read_label(value) if isinstance(value, str) else None
    if label is None:
        raise BadValue(f"answer: not entailment, neutral or contradiction (0, 1, 2) but {_shown(value)}")
    return label


def _span(value: object) -> str:
    """Return words or a number as text; several of them as a list in JSON."""
    if isinstance(value, list):
        several = [_span(each) for each in value if not isinstance(each, list)]
        if not several or len(several) < len(value):
            raise BadValue(f"answer: not a list of texts but {_shown(value)}")
        return several[0] if len(several) == 1 else json.dumps(several, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise BadValue(f"answer: not text, a number or a list of these but {_shown(value)}")
    text = value.strip() if isinstance(value, str) else _plain(value)
    if read_span(text) is None:
        raise BadValue("answer: empty" if not text else f"answer: no words in {_shown(value)}")
    return text


def _open(value: object) -> str | None:
    """Return any text; none will do."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise BadValue(f"answer: not text but {_shown(value)}")
    return _plain(value)


def _answer(value: object, kind: Kind, choices: tuple[str, ...]) -> str | None:
    """Return an answer of a kind. Raises `BadValue`."""
    match kind:
        case "math":
            return _number(value)
        case "choice":
            return _letter(value, choices)
        case "boolean":
            return _verdict(value)
        case "entailment":
            return _label(value)
        case "span":
            return _span(value)
        case "open":
            return _open(value)


def _aliases(value: object, name: str, kind: Kind, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the other answers of a column: a list, a list as JSON text, or nothing."""
    if value is None or value == "":
        return ()
    others = listed(value) if isinstance(value, str) else value
    if not isinstance(others, list):
        raise BadValue(f"{name}: not a list but {_shown(value)}")
    try:
        answers = [_answer(other, kind, choices) for other in others]
    except BadValue as error:
        raise BadValue(f"{name}: {str(error).removeprefix('answer: ')}") from error
    return tuple(answer for answer in answers if answer is not None)


def _after_hashes(answer: str) -> str:
    _, hashes, number = answer.rpartition("####")
    if not hashes:
        raise BadValue("answer: no #### before the number")
    return _number(number)


# ---------------------------------------------------------------------------------------------------------------- formats


def _bbh(text: str, target: str) -> Parts:
    """The options stay in the text as well: that is how the publisher asks."""
    choices = _options(text)
    if choices:
        return Parts(text, _letter(target, choices), "choice", choices)
    if target.casefold() in ("yes", "no", "true", "false"):
        return Parts(text, _verdict(target), "boolean")
    if not read(target):
        raise BadValue(f"target: {_shown(target)} is no letter of an option, yes, no or number")
    return Parts(text, _number(target), "math")


def _options(text: str) -> tuple[str, ...]:
    """Return the options "(A) ...", "(B) ..." that stand on lines of their own, in order."""
    found = re.findall(r"^[ \t]*\(([A-Z])\)[ \t]*(\S.*?)[ \t]*$", text.partition("Options:")[2] or text, re.MULTILINE)
    in_order = len(found) > 1 and all(letter == letter_at(index) for index, (letter, _) in enumerate(found))
    return tuple(option for _, option in found) if in_order else ()


def _fields(columns: Mapping[str, Any], source: File) -> Parts:
    fields, kind = source.fields, source.answers
    text = _text(columns, fields.question)
    context = column(columns, fields.context) if fields.context else None
    if context is not None and not isinstance(context, str):
        raise BadValue(f"{fields.context}: not text but {_shown(context)}")
    choices = _choices(columns, fields.choices, text) if kind == "choice" else ()
    answer = _answer(column(columns, fields.answer), kind, choices) if fields.answer else None
    aliases = _aliases(column(columns, fields.aliases), fields.aliases, kind, choices) if fields.aliases else ()
    others = tuple(alias for alias in dict.fromkeys(aliases) if alias != answer)
    return Parts(text, answer, kind, choices, context.strip() or None if context else None, others)


def _choices(columns: Mapping[str, Any], name: str | None, text: str) -> tuple[str, ...]:
    """Return the options of a column: a list, or a list as JSON text; without a column, those in the question's text."""
    if name is None:
        if options := _options(text):
            return options
        raise BadValue("no options: neither `fields.choices` nor lines (A), (B), ... in the question")
    value = column(columns, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadValue(f"{name}: not a list but {_shown(value)}") from error
    if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, (str, int, float)) for v in value):
        raise BadValue(f"{name}: not a list of texts but {_shown(value)}")
    choices = tuple(str(option).strip() for option in value)
    if not 2 <= len(choices) <= MOST_CHOICES or not all(choices):
        raise BadValue(f"{name}: {len(choices)} options, or an empty one; accepted: 2 to {MOST_CHOICES} texts")
    return choices
