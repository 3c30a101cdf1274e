r"""What a text answers, and whether two answers are the same: pure, by kind of question.

Invariant: no string makes these functions raise or take more than linear time, and `same_answer` is symmetric. A wrong
answer taken for right does more harm than a right one refused, so what is not plainly an answer equals nothing else:
"12 or 15" is not "12", "about 12" is not "12", "3 minutes" is not "3 hours", "3x" is not "3", "3.0001" is not "3".

Where the answer is looked for, in this order:
1. after the last `</think>`, if anything stands there;
2. in the last explicit statement ("the final answer is ...", "Answer: ...", "#### ..."), up to the end of its sentence.
   Of two statements that differ the last one counts; a statement that was cut off before its answer gives None;
3. in the last `\boxed{...}`;
4. the last number, bracketed letter, or yes/no that stands as a verdict; none of these from a sentence that hedges.

Compare with `same_answer`, not with `==`: "42" and "42 dollars" are the same answer in two normal forms.
Not covered: symbolic equality (`x + 1` and `1 + x` differ) and what `quantities` does not cover.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.quantities import boxed, hedges, read, read_within, tidy, unbox
from store.types import Kind

_MARKER = re.compile(
    r"\b(?:answer|correct option|correct choice)(?:\s+to\s+(?:the|this)\s+(?:question|problem))?[\s*_]*(?:(?:is|are|was)\b|[:=])"
    r"|\bfinal answer[*_ ]*(?=\n)|####",
    re.IGNORECASE | re.ASCII,
)
_DRESS = " \t\r\n\f\v*_`:\"'"
_SENTENCE_END = re.compile(r"\.(?=[*_`$\")\]]*(?:\s|$))|(?<![0-9])!(?=[*_`$\")\]]*(?:\s|$))|\n")


def extract(text: str, kind: Kind, choices: Sequence[str] = ()) -> str | None:
    """Return the answer that `text` gives, in normal form where it is plainly one, else as stated; None if it gives none."""
    conclusion = text.rpartition("</think>")[2]
    text = conclusion if conclusion.strip() else text
    marker = None
    for marker in _MARKER.finditer(text):  # noqa: B007 - only the last one counts
        pass
    if marker:
        return _stated(text[marker.end() :], kind, choices)
    if (box := boxed(text)) is not None:
        return normalise(box, kind, choices)
    match kind:
        case "math":
            return _last_number(text)
        case "choice":
            return _last_letter(text, choices)
        case "boolean":
            return _last_verdict(text)


def normalise(answer: str, kind: Kind, choices: Sequence[str] = ()) -> str:
    """Return the normal form: "42", "3/4" as "0.75", "3 hours"; a letter; yes or no; else the tidied text."""
    match kind:
        case "math":
            text = tidy(answer)
            return str(read(text) or text)
        case "choice":
            return read_letter(answer, choices) or _flat(answer)
        case "boolean":
            return read_verdict(answer) or _flat(answer)


def same_answer(a: str, b: str, kind: Kind, choices: Sequence[str] = ()) -> bool:
    """Return whether both are plainly the same answer. Numbers are compared exactly; different known measures differ."""
    match kind:
        case "math":
            return _same_mathematics(tidy(a), tidy(b))
        case "choice":
            first, second = read_letter(a, choices), read_letter(b, choices)
            if choices or first or second:
                return first is not None and first == second
            return bool(_flat(a)) and _flat(a) == _flat(b)
        case "boolean":
            first, second = read_verdict(a), read_verdict(b)
            return first is not None and first == second


def _flat(text: str) -> str:
    return " ".join(text.split()).casefold()


def _stated(rest: str, kind: Kind, choices: Sequence[str]) -> str | None:
    """Read an explicit statement, given all that follows its marker."""
    rest = rest.lstrip(_DRESS)
    opening = re.match(r"(?:\$+|\\[\[(])?\s*", rest)
    at = opening.end() if opening else 0
    line = (rest[:at].strip() + rest[at:]).partition("\n")[0]
    end = _SENTENCE_END.search(line)
    sentence = (line[: end.start()] if end else line).strip()
    if not sentence.strip(_DRESS + "$[](){}\\."):
        return None
    match kind:
        case "math":
            return _number_stated(sentence, rest)
        case "choice":
            return read_letter(line, choices) or _letter_stated(sentence, choices) or normalise(sentence, kind, choices)
        case "boolean":
            return normalise(sentence, kind)


# ---------------------------------------------------------------------------------------------------------------- numbers

_BESIDE_SIGN = re.compile(r" ?([^\w\s¤€£.,-]) ?")
_OPERAND = re.compile(r"[0-9+*/×÷^(-]$")  # noqa: RUF001 - signs of multiplication


def _same_mathematics(a: str, b: str) -> bool:
    first, second = read(a), read(b)
    if first and second:
        return first.same(second)
    return first is second and bool(a) and _BESIDE_SIGN.sub(r"\1", a) == _BESIDE_SIGN.sub(r"\1", b)


def _number_stated(sentence: str, rest: str) -> str:
    r"""Read a sentence such as "42 apples", "5 + 3 = 8", "Tom has 8 apples", "\boxed{8} because ..."; as it is if unclear."""
    if not re.search(r"[0-9\\]", sentence) and (box := boxed(rest)):
        return normalise(box, "math")
    text = tidy(sentence)
    if quantity := read(text):
        return str(quantity)
    if sentence.count(r"\boxed") == 1 and not hedges(text) and (box := boxed(sentence)):
        return normalise(box, "math")
    return str(read_within(text) or text)


def _last_number(text: str) -> str | None:
    """Return the last number of a text without a statement, unless its sentence hedges or it is an operand."""
    digit = max(text.rfind(d) for d in "0123456789")
    if digit < 0:
        return None
    start = 0
    for stop in _SENTENCE_END.finditer(text, 0, digit):
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


# ---------------------------------------------------------------------------------------------------------------- choices

_BRACKETED = re.compile(r"\(([A-Z])\)")
_LETTER = re.compile(
    r"(?:(?:option|choice|answer) )?(?P<open>\(?)(?P<letter>[A-Z])(?:\)|(?=[.:,]|$| -))[.:,]? ?-? ?(?P<text>.*)",
    re.IGNORECASE | re.ASCII,
)


def read_letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer plainly is: "B", "(b)", "B. its text", or its text alone."""
    plain = _plain(answer)
    texts = [_plain(choice).casefold().rstrip(". ") for choice in choices]
    named = {letter_at(i) for i, text in enumerate(texts) if text and text == plain.casefold().rstrip(". ")}
    if not (match := _LETTER.fullmatch(plain)):
        return named.pop() if len(named) == 1 else None
    letter, beside = match["letter"].upper(), match["text"].casefold().rstrip(". ")
    index = ord(letter) - ord("A")
    if not 0 <= index < (len(choices) or 26) or (beside and (not choices or beside != texts[index])):
        return named.pop() if len(named) == 1 else None
    return letter if match["open"] or not named or letter in named else None  # "A", where another option reads "A"


def letter_at(index: int) -> str:
    """The letter of the option at `index`; past Z there are none, only numbers."""
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf) ?\{([^{}]*)\}", r"\1", unbox(text))
    return " ".join(text.replace("**", "").split()).strip("$ `")


def _letter_stated(sentence: str, choices: Sequence[str]) -> str | None:
    """Return the one bracketed letter of a sentence that does not hedge, and names no other option in words."""
    letters = {match[1] for match in _BRACKETED.finditer(sentence)}
    if len(letters) != 1 or re.search(r"\b(?:or|not|either|neither|nor)\b|n't\b", sentence, re.IGNORECASE):
        return None
    index = ord(letter := letters.pop()) - ord("A")
    words = _flat(sentence)
    others = [_flat(choice) for i, choice in enumerate(choices) if i != index]
    if choices and (index >= len(choices) or any(len(other) > 1 and other in words for other in others)):
        return None
    return letter


def _last_letter(text: str, choices: Sequence[str]) -> str | None:
    """Return the last line if it plainly is an option, else the one bracketed letter of the last sentence that has any."""
    lines = text.rstrip().splitlines()
    if lines and (letter := read_letter(lines[-1], choices)):
        return letter
    line = next((line for line in reversed(lines) if _BRACKETED.search(line)), "")
    sentence = next((each for each in reversed(_SENTENCE_END.split(line)) if _BRACKETED.search(each)), "")
    return _letter_stated(sentence, choices)


# --------------------------------------------------------------------------------------------------------------- booleans

_VERDICTS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_VERDICT = re.compile(
    r"(?P<verdict>yes|no|true|false)(?:[.!]*"
    r"|(?:[,;:.!] ?| ?[\u2014\u2013-] ?| (?=(?:because|since|as|it|he|she|they|we|the|this|that|you)\b))"
    r"(?! ?(?:or|and|but|maybe)\b)(?P<why>.*))",
    re.IGNORECASE | re.ASCII,
)
_STANDING = re.compile(
    r"(?<![\w'-])(?:(?P<not>not|n't|or|and) )?(?P<verdict>yes|no|true|false)(?=\**(?:[.,;!]|$))",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)


def read_verdict(answer: str) -> str | None:
    """Return yes or no where an answer plainly is one, with or without a reason behind it."""
    match = _VERDICT.fullmatch(_plain(answer))
    return _VERDICTS[match["verdict"].lower()] if match else None


def _last_verdict(text: str) -> str | None:
    """Return the last yes, no, true or false that ends a clause; None where it is negated or offered as one of two."""
    found = None
    for found in _STANDING.finditer(text):  # noqa: B007 - only the last one counts
        pass
    return _VERDICTS[found["verdict"].lower()] if found and not found["not"] else None
