"""Words and numbers out of a text or table: which are the same, and by how much they overlap. Pure.

Invariant: `Span.same` is symmetric; two spans whose numbers differ, or of which one is negated or hedged, have no words in common
(F1 0), whatever else they share.
Words are compared as SQuAD does (case, articles and punctuation do not count, Rajpurkar et al. 2016); numbers exactly, with
scales, currency, percent and the accountant's "(1,234)" for -1,234, as TAT-QA and FinQA write them. A scale that only one side
names makes another number: "$5.2 million" is not "5.2".
Departures: numbers keep their sign and decimals, where SQuAD's removal of punctuation would make 52 of 5.2; small number words
are numbers.
A gold answer of several spans is a list in JSON; an answer to it names them in any order, joined by commas, semicolons or "and".
Not covered: synonyms, dates in other forms.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.answers.expressions import pairs_off
from orchestrator.answers.quantities import MEASURE, Quantity, read, tidy, words_of, written

_ARTICLES = frozenset({"a", "an", "the"})
_TURNING = words_of(
    "not no never without neither nor except or maybe perhaps possibly probably unknown unlikely about approximately around "
    "almost nearly roughly under over below above less more least most before after"
)
"""Words that turn what stands beside them into something else."""
_MONTHS = words_of("january february march april may june july august september october november december")
_SMALL_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_SMALL = {word: str(value) for value, word in enumerate(_SMALL_WORDS.split())}
_SCALES = words_of("hundred thousand million billion trillion dozen percent")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])-|(?<=[$€£¤])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+"
)
_ACCOUNTED = re.compile(r"([¤€£]?) ?\(([¤€£]? ?[0-9][0-9,]*(?:\.[0-9]+)?(?: ?%)?)\)(.*)")
_GLUED = re.compile(r"([¤€£] ?-?[0-9][0-9,]*(?:\.[0-9]+)?) ?(bn|mn|tn|[kKMB])\b|(\b[0-9][0-9,]*(?:\.[0-9]+)?) ?(bn|mn|tn)\b")
_GLUED_SCALE = {
    "k": "thousand",
    "K": "thousand",
    "M": "million",
    "mn": "million",
    "B": "billion",
    "bn": "billion",
    "tn": "trillion",
}
_FIGURES = re.compile(r"^[-+¤€£ (]*[0-9][0-9,./ ]*")
_JOINTS = (re.compile(r";\s*"), re.compile(r",\s+and\s+|,\s+|\s+and\s+"))
_LONGEST_NUMBER = 60
LONGEST = 2000
"""Characters beyond which a span equals only its own text."""


@dataclass(frozen=True, slots=True)
class Item:
    """One span: a number with the words behind it, or words (`words`, numbers among them, in order)."""

    words: tuple[str, ...]
    number: Quantity | None = None

    def same(self, other: Item) -> bool:
        """Whether both are plainly the same; of numbers, one may leave out what is counted."""
        if self.number and other.number:
            nouns = self.words == other.words or not (self.words and other.words)
            return nouns and self.number.same(other.number)
        return bool(self.words) and self.number is other.number and self.words == other.words


@dataclass(frozen=True, slots=True)
class Span:
    """One item, or a list of several; `splits` are the ways in which an undivided text can be several."""

    items: tuple[Item, ...]
    listed: bool = False
    splits: tuple[tuple[Item, ...], ...] = ()

    def same(self, other: Span) -> bool:
        """Whether both name the same items; only what one side lists is looked for apart in the other."""
        if self.listed == other.listed:
            return _pair_off(self.items, other.items)
        listed, text = (self, other) if self.listed else (other, self)
        return any(_pair_off(listed.items, split) for split in (text.items, *text.splits))


def _pair_off(ours: Sequence[Item], theirs: Sequence[Item]) -> bool:
    """Whether each item is the same as one of its own on the other side."""
    return len(ours) == len(theirs) and pairs_off([[item.same(other) for other in theirs] for item in ours])


def read_span(answer: str) -> Span | None:
    """Read an answer or a list of them in JSON; None if nothing is in it."""
    if len(answer) > LONGEST:
        return None
    if (texts := listed(answer)) is not None:
        items = tuple(_item(text) for text in texts)
        return Span(items, listed=len(items) > 1) if items and all(item.words or item.number for item in items) else None
    item = _item(answer)
    if not (item.words or item.number):
        return None
    return Span((item,), splits=() if item.number else tuple(_splits(answer)))


def listed(answer: str) -> list[str] | None:
    """The texts of a list in JSON, or None if it is not one."""
    if not answer.lstrip().startswith("["):
        return None
    try:
        values: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(values, list) and all(
        isinstance(value, (str, int, float)) and not isinstance(value, bool) for value in values
    )
    return [str(value) for value in values] if whole else None


def _splits(answer: str) -> list[tuple[Item, ...]]:
    found = []
    for joint in _JOINTS:
        parts = [part for part in joint.split(answer) if part.strip()]
        if 1 < len(parts) <= 50:
            found.append(tuple(_item(part) for part in parts))
    return found


def _item(text: str) -> Item:
    plain = _plain(text)
    plain = _SMALL.get(plain.casefold(), plain)
    number = read(plain)
    if number is None and (match := _ACCOUNTED.fullmatch(plain)):
        inside = read(f"{match[1]}{match[2]}{match[3]}")
        number = Quantity(-inside.value, inside.measure) if inside else None
    if number is None or not _MONTHS.isdisjoint(plain.casefold().split()):
        words = tokens(plain) or [word for word in plain.casefold().split() if word.isalnum()]  # "A" is an answer too
        return Item(tuple(words))
    behind = _words(_FIGURES.sub("", plain))
    return Item(tuple(word for word in behind if word not in _SCALES and word not in MEASURE), number)


def _plain(text: str) -> str:
    """Take off dress and quotes; glued scales behind currency become words."""
    plain = tidy(unicodedata.normalize("NFKC", text)).strip(" \"'*_\u201c\u201d\u2018")
    plain = _GLUED.sub(lambda match: f"{match[1] or match[3]} {_GLUED_SCALE[match[2] or match[4]]}", plain)
    return plain.rstrip(".,;:!") if not plain.endswith("..") else plain


def _words(text: str) -> list[str]:
    """SQuAD's words: lower case, without punctuation and articles."""
    bare = "".join(character for character in text.casefold() if not _is_punctuation(character))
    return [word for word in bare.split() if word not in _ARTICLES]


def _is_punctuation(character: str) -> bool:
    return (unicodedata.category(character)[0] == "P" and character != "#") or character in "$^`|~<=>¤"


def tokens(text: str) -> list[str]:
    """The words and numbers of a text, numbers in one form."""
    found: list[str] = []
    at = 0
    for match in _NUMBER.finditer(text):
        found += _words(text[at : match.start()].replace("-", " ") if match.start() > at else "")
        found.append(_number(match[0]))
        at = match.end()
        if text[at : at + 1] == "%":
            found.append("percent")
            at += 1
    return [_SMALL.get(word, word) for word in [*found, *_words(text[at:].replace("-", " "))]]


def _number(text: str) -> str:
    if len(text) > _LONGEST_NUMBER:
        return text
    quantity = read(text)
    return written(quantity.value) if quantity else text


def f1(answer: str, target: str) -> float:
    """Token F1 of two answers; 0 where their numbers, or the words that turn a meaning, differ."""
    ours, theirs = _bag(answer), _bag(target)
    if _fixed(ours) != _fixed(theirs):
        return 0.0
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else 0.0


def _bag(answer: str) -> Counter[str]:
    texts = listed(answer)
    return Counter(token for text in ([answer] if texts is None else texts) for token in tokens(_plain(text[:LONGEST])))


def _fixed(bag: Counter[str]) -> Counter[str]:
    """The tokens that must be equal on both sides."""
    return Counter(
        {token: count for token, count in bag.items() if token in _TURNING or token in _SCALES or any(c.isdigit() for c in token)}
    )
