"""Which option an answer chooses: pure.

Invariant: a letter comes back only where an answer plainly is one option: its letter, its text, or both in agreement.
Not covered: where in a text the answer stands (`answer.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.answers.quantities import unbox

_BRACKETED = re.compile(r"\(([A-Z])\)")
_OFF = re.compile(
    r"\b(?:or|not|either|neither|nor|cannot|except|but|without|wrong|incorrect|false|unlikely|maybe|perhaps|possibly|might|could"
    r"|unless|if|hardly|never|no|excluded?|eliminated?|ruled? out|discarded?)\b|n't\b|\?",
    re.IGNORECASE,
)
"""What, beside a letter, means another one or none in particular."""
_LETTER = re.compile(
    r"(?:(?:option|choice|answer) )?(?P<open>\(?)(?P<letter>[A-Z])(?:\)|(?=[.:,]|$| -))[.:,]? ?-? ?(?P<text>.*)",
    re.IGNORECASE | re.ASCII,
)


def read_letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer plainly is: "B", "(b)", "B. its text", or its text alone."""
    plain = plainly(answer)
    texts = [plainly(choice).casefold().rstrip(". ") for choice in choices]
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


def plainly(text: str) -> str:
    """Take off a box, bold type, quotes of code and dollar signs; white space becomes single spaces."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf) ?\{([^{}]*)\}", r"\1", unbox(text))
    return " ".join(text.replace("**", "").split()).strip("$ `")


def flat(text: str) -> str:
    """The text in one case, with single spaces."""
    return " ".join(text.split()).casefold()


def letter_stated(sentence: str, choices: Sequence[str]) -> str | None:
    """Return the one bracketed letter of a sentence that does not hedge, and names no other option in words."""
    letters = {match[1] for match in _BRACKETED.finditer(sentence)}
    if len(letters) != 1 or _OFF.search(sentence):
        return None
    index = ord(letter := letters.pop()) - ord("A")
    words = flat(sentence)
    others = [flat(choice) for i, choice in enumerate(choices) if i != index]
    if choices and (index >= len(choices) or any(len(other) > 1 and other in words for other in others)):
        return None
    return letter


def last_letter(text: str, choices: Sequence[str], sentence_end: re.Pattern[str]) -> str | None:
    """Return the last line if it plainly is an option, else the one bracketed letter of the last sentence that has any."""
    lines = text.rstrip().splitlines()
    if lines and (letter := read_letter(lines[-1], choices)):
        return letter
    line = next((line for line in reversed(lines) if _BRACKETED.search(line)), "")
    sentence = next((each for each in reversed(sentence_end.split(line)) if _BRACKETED.search(each)), "")
    return letter_stated(sentence, choices)
