"""Which verdict an answer gives: yes or no; entailment, neutral or contradiction. Pure.

Invariant: a verdict comes back only where the answer plainly is one: "yes or no", "not true" and "neither entails nor
contradicts" are none.
Of the labels, the verb's own forms count ("entailed", "entails", "contradicts"), and "undetermined" for neutral, which says the
same. Yes, true, likely, unrelated and the letters of a list do not: they answer other questions ("is it true?"), and data sets
disagree about which letter is which label.
Not covered: where in a text the answer stands (`answers`).
"""

from __future__ import annotations

import re

from orchestrator.choices import plainly
from orchestrator.quantities import words_of

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
    match = _VERDICT.fullmatch(plainly(answer))
    return _VERDICTS[match["verdict"].lower()] if match else None


def last_verdict(text: str) -> str | None:
    """Return the last yes, no, true or false that ends a clause; None where it is negated or offered as one of two."""
    found = None
    for found in _STANDING.finditer(text):  # noqa: B007 - only the last one counts
        pass
    return _VERDICTS[found["verdict"].lower()] if found and not found["not"] else None


LABELS = ("entailment", "neutral", "contradiction")
"""The labels of entailment, in the order in which data sets number them: 0, 1, 2."""
_LABEL = {
    **dict.fromkeys(("entailment", "entailed", "entails"), "entailment"),
    **dict.fromkeys(("neutral", "undetermined"), "neutral"),
    **dict.fromkeys(("contradiction", "contradicted", "contradicts", "contradictory"), "contradiction"),
}
_OFF = words_of(
    "not no non cannot neither nor or either if unless maybe perhaps possibly probably likely unlikely might may could would "
    "should rather than but except without nearly almost partly never hardly instead versus vs and between isn't doesn't don't "
    "can't wasn't aren't didn't won't wouldn't couldn't fails far wrong false incorrect untrue"
)
"""Words beside a label that make it another one, or none in particular."""
_LONGEST = 20
_BECAUSE = re.compile(r"\b(?:because|since|as)\b|[,;:\u2014]", re.IGNORECASE)


def read_label(answer: str) -> str | None:
    """Return the label that an answer plainly gives: itself, or in a short sentence that names one and takes nothing back."""
    said = _BECAUSE.split(plainly(answer)[:2000], maxsplit=1)
    words = re.findall(r"[a-z']+", said[0].casefold().replace("\u2019", "'"))
    labels = {_LABEL[word] for word in words if word in _LABEL}
    if len(labels) != 1 or len(words) > _LONGEST or not _OFF.isdisjoint(words) or re.search(r"non-|[?/|]", said[0]):
        return None
    behind = set(re.findall(r"[a-z]+", said[1].casefold())) if len(said) > 1 else set()
    return None if any(_LABEL.get(word) not in (None, *labels) for word in behind) or "or" in behind else labels.pop()


def last_label(text: str, sentence_end: re.Pattern[str]) -> str | None:
    """Return the label of the last sentence."""
    sentences = [each for each in sentence_end.split(text[-2000:]) if each.strip("*_` ")]
    return read_label(sentences[-1]) if sentences else None
