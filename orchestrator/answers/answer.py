r"""What a text answers, and whether two answers are the same: pure, by kind of question.

Invariant: no string makes these functions raise or take more than linear time, and `compare` is symmetric. A wrong answer taken
for right does more harm than a right one refused, so what is not plainly an answer equals nothing else:
"12 or 15" is not "12", "about 12" is not "12", "3 minutes" is not "3 hours", "3x" is not "3", "3.0001" is not "3".

Where the answer is looked for, in this order (`Found.where` says where it was):
1. after the last `</think>`, if anything stands there;
2. "statement": the last explicit statement ("the final answer is ...", "Answer: ...", "#### ..."), up to the end of its sentence.
   Of two statements that differ the last one counts; one that was cut off before its answer, or is taken back, gives None;
3. "box": the last `\boxed{...}`, unless the words beside it hedge;
4. "last": the last number, bracketed letter, or yes/no that stands as a verdict; the label of the last sentence; the last line if
   it is short. None of these from a sentence that hedges.
An open answer is the whole conclusion ("last"): only a judge can tell what it is worth.

Compare with `same_answer`, not with `==`: "42" and "42 dollars" are the same answer in two normal forms.
Percent: "50%" is "50 percent", and 0.5 or 1/2 as a number; "50", which names no unit, may be 50 of anything, so of percent too.
Not covered: symbolic equality (`compare` returns None; `checker`) and what `quantities` and `spans` do not cover.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.answers.choices import flat, last_letter, letter_stated, read_letter
from orchestrator.answers.expressions import Mathematics, Words, read_mathematics, same_mathematics, undressed
from orchestrator.answers.labels import last_label, last_verdict, read_label, read_verdict
from orchestrator.answers.quantities import Quantity, boxed, hedges, read, read_within, tidy, unbox
from orchestrator.answers.spans import Span, read_span
from store.types import Kind, Where

Form = Mathematics | Span | str
"""What an answer plainly is."""

_MARKER = re.compile(
    r"(?<!wrong )(?<!incorrect )(?<!false )(?<!mistaken )(?<!tempting )(?<!previous )(?<!first )"
    r"\b(?:answer|correct option|correct choice)(?:\s+to\s+(?:the|this)\s+(?:question|problem))?[\s*_]*(?:(?:is|are|was)\b|[:=])"
    r"|\bfinal answer[*_ ]*(?=\n)|####",
    re.IGNORECASE | re.ASCII,
)
_DRESS = " \t\r\n\f\v*_`:\"'"
_SENTENCE_END = re.compile(r"\.(?=[*_`$\")\]]*(?:\s|$))|(?<![0-9])!(?=[*_`$\")\]]*(?:\s|$))|\n")
_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|No|vs|Inc|Ltd|Co|Corp|U\.S|[A-Z])$")
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?\n])[\s*_)\"]*(?:(?:oh|hmm|but)\b[,.]* ?)?(?:(?:wait|actually|correction|scratch that|oops|sorry)\b|no[,.]"
    r"|on second thoughts?|(?:that|this|it) (?:is|was) (?:wrong|not right|incorrect|a mistake)"
    r"|i (?:made|was wrong|mean)|or (?:rather|maybe|perhaps))",
    re.IGNORECASE,
)
_LONGEST_LINE = 200
"""Characters beyond which a last line is no answer by itself."""


class Found(NamedTuple):
    """An answer, in normal form where it plainly is one, else as stated; and in which form it stood in its text."""

    answer: str
    where: Where


def find_answer(text: str, kind: Kind, choices: Sequence[str] = ()) -> Found | None:
    """Return the answer that `text` gives; None if it gives none."""
    conclusion = text.rpartition("</think>")[2]
    text = conclusion if conclusion.strip() else text
    if kind == "open":
        return Found(text.strip(), "last") if text.strip() else None
    marker = None
    for marker in _MARKER.finditer(text):  # noqa: B007 - only the last one counts
        pass
    if marker:
        stated = _stated(text[marker.end() :], kind, choices)
        return Found(stated, "statement") if stated is not None else None
    if boxed(text) is not None:
        box = _plain_box(text)
        return Found(_number_in(box) if kind == "math" else normalise(box, kind, choices), "box") if box is not None else None
    last = _last(text, kind, choices)
    return Found(last, "last") if last is not None else None


def extract(text: str, kind: Kind, choices: Sequence[str] = ()) -> str | None:
    """Return the answer of `find_answer`, wherever it stands."""
    found = find_answer(text, kind, choices)
    return found.answer if found else None


def normalise(answer: str, kind: Kind, choices: Sequence[str] = ()) -> str:
    """Return the normal form: "42", "3/4" as "0.75", "3 hours"; an expression; a letter; yes or no; a label; else tidy text."""
    match kind:
        case "math":
            said = read_mathematics(answer)
            if isinstance(said, Quantity):
                return str(said)
            return tidy(answer) if said is None or isinstance(said, Words) else undressed(answer)
        case "choice":
            return read_letter(answer, choices) or flat(answer)
        case "boolean":
            return read_verdict(answer) or flat(answer)
        case "entailment":
            return read_label(answer) or flat(answer)
        case "span":
            return " ".join(unbox(answer).replace("**", "").split()).strip(_DRESS)
        case "open":
            return answer.strip()


def read_form(answer: str, kind: Kind, choices: Sequence[str] = ()) -> Form | None:
    """Return what an answer plainly is; None for what equals nothing, not even itself."""
    match kind:
        case "math":
            return read_mathematics(answer)
        case "choice":
            return read_letter(answer, choices) or (None if choices else flat(answer) or None)
        case "boolean":
            return read_verdict(answer)
        case "entailment":
            return read_label(answer)
        case "span":
            return read_span(answer)
        case "open":
            return flat(answer) or None


def same_form(a: Form | None, b: Form | None) -> bool | None:
    """Return whether two forms of one kind are the same; None where only symbolic equality can tell."""
    if a is None or b is None:
        return False
    if isinstance(a, Span) and isinstance(b, Span):
        return a.same(b)
    if isinstance(a, (Span, str)) or isinstance(b, (Span, str)):
        return a == b
    return same_mathematics(a, b)


def compare(a: str, b: str, kind: Kind, choices: Sequence[str] = ()) -> bool | None:
    """Return whether both are the same answer where that is plain, and None where only symbolic equality can tell.

    Two numbers are always compared exactly; different known measures differ.
    """
    return same_form(read_form(a, kind, choices), read_form(b, kind, choices))


def same_answer(a: str, b: str, kind: Kind, choices: Sequence[str] = ()) -> bool:
    """Return whether both are plainly the same answer."""
    return compare(a, b, kind, choices) is True


# ------------------------------------------------------------------------------------------------------------- extraction

_HEDGED = re.compile(
    r"(?:\b(?:or|not|about|approximately|roughly|nearly|almost|around|maybe|either)[\s$:*({]*|\\approx[\s${]*|≈[\s${]*)$",
    re.IGNORECASE,
)
_OFFERED = re.compile(r"[\s$.,)*]*(?:or\b|\?)", re.IGNORECASE)


def _plain_box(text: str) -> str | None:
    """The content of the last box; None where the words beside it hedge, its line offers another one, or it is taken back."""
    box = boxed(text) or ""
    start = text.rfind(r"\boxed{")
    line, behind = text[:start].rpartition("\n")[2][-300:], text[start + len(r"\boxed{") + len(box) + 1 :]
    other = boxed(line)
    if not box.strip() or (other is not None and flat(other) != flat(box)):
        return None
    return None if _HEDGED.search(line) or _OFFERED.match(behind) or _TAKEN_BACK.search(behind) else box


def _last(text: str, kind: Kind, choices: Sequence[str]) -> str | None:
    """Return what stands last in a text without a statement."""
    match kind:
        case "math":
            return _last_number(text)
        case "choice":
            return last_letter(text, choices, _SENTENCE_END)
        case "boolean":
            return last_verdict(text)
        case "entailment":
            return last_label(text, _SENTENCE_END)
        case _:
            line = text.rstrip(_DRESS).rpartition("\n")[2].strip(_DRESS)
            return normalise(line, kind) if 0 < len(line) <= _LONGEST_LINE and not line.endswith(("?", "...")) else None


def _stated(rest: str, kind: Kind, choices: Sequence[str]) -> str | None:
    """Read an explicit statement, given all that follows its marker."""
    rest = rest.lstrip(_DRESS)
    opening = re.match(r"(?:\$+|\\[\[(])?\s*", rest)
    at = opening.end() if opening else 0
    line = (rest[:at].strip() + rest[at:]).partition("\n")[0]
    end = _SENTENCE_END.search(line)
    sentence = (line[: end.start()] if end else line).strip()
    if not sentence.strip(_DRESS + "$[](){}\\.") or _TAKEN_BACK.search(rest, min(len(rest), at + len(sentence))):
        return None
    match kind:
        case "math":
            return _number_stated(sentence, rest)
        case "choice":
            return read_letter(line, choices) or letter_stated(sentence, choices) or normalise(sentence, kind, choices)
        case "span":
            return normalise(_phrase(line), kind)
        case _:
            return normalise(sentence, kind)


def _phrase(line: str) -> str:
    """What stands before the end of a line's first sentence; "Mr." and "J." end none."""
    ends = (end.start() for end in _SENTENCE_END.finditer(line) if not _ABBREVIATED.search(line[: end.start()][-12:]))
    return line[: next(ends, len(line))]


# ---------------------------------------------------------------------------------------------------------------- numbers

_OPERAND = re.compile(r"[0-9+*/×÷^(-]$")  # noqa: RUF001 - signs of multiplication


def _number_stated(sentence: str, rest: str) -> str:
    r"""Read a sentence such as "42 apples", "5 + 3 = 8", "Tom has 8 apples", "\boxed{8} because ..."; as it is if unclear."""
    if not re.search(r"[0-9\\]", sentence) and (box := boxed(rest)):
        return _number_in(box)
    text = tidy(sentence)
    if sentence.count(r"\boxed") == 1 and not hedges(text) and (box := boxed(sentence)):
        return _number_in(box)
    return _number_in(sentence)


def _number_in(sentence: str) -> str:
    """Read mathematics, or the number that a sentence states; else the tidied text."""
    said = read_mathematics(sentence)
    within = read_within(tidy(sentence)) if isinstance(said, Words) else None
    return str(within) if within else normalise(sentence, "math")


def _last_number(text: str) -> str | None:
    """Return the last number of a text without a statement, unless its sentence hedges or it is an operand."""
    digit = max(text.rfind(d) for d in "0123456789")
    if digit < 0:
        return None
    start = 0
    for stop in _SENTENCE_END.finditer(text):
        if stop.start() >= digit:
            break
        start = stop.end()
    end = _SENTENCE_END.search(text, digit + 1)
    sentence = tidy(text[start : end.start() if end else len(text)].strip(_DRESS))
    if hedges(sentence):
        return None
    if quantity := read(sentence) or read_within(sentence):
        return str(quantity)
    words = sentence.rpartition("=")[2].split()
    at = max((i for i, word in enumerate(words) if re.search("[0-9]", word)), default=None)
    if at is None or (at and _OPERAND.search(words[at - 1])):
        return None
    quantity = read(" ".join(words[at:])) or read(words[at].rstrip(",;:"))
    return str(quantity) if quantity else None
