"""Which verdict an answer gives: yes or no; entailment, neutral or contradiction. Pure.

Invariant: a verdict comes back only where the answer plainly is one: "yes or no", "not true" and "neither entails nor
contradicts" are none.
Of the labels, the verb's own forms count ("entailed", "entails", "contradicts"), and "undetermined" for neutral, which says
the same; what else stands in the sentence must be one of a few words, for any other may turn its meaning.
Yes, true, likely, unrelated and the letters of a list do not count: they answer other questions ("is it true?"), and data sets
disagree about which letter is which label.
Not covered: where in a text the answer stands (`answer.py`).
"""

from __future__ import annotations

import re

from orchestrator.answers.choices import plainly
from orchestrator.answers.quantities import words_of

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


_LONGEST_CLAUSE = 300
_OFF = words_of(
    "not no cannot neither nor or either if unless whether maybe perhaps possibly probably likely unlikely might may could would "
    "should rather but except without nearly almost partly never hardly instead nobody none nothing unable claim claims claimed "
    "says said say doubt doubtful unclear unknown untrue wrong incorrect isn't doesn't don't can't wasn't aren't didn't"
)
"""Words before a verdict that take it back or leave it open."""


def read_verdict(answer: str) -> str | None:
    """Return yes or no where an answer plainly is one, with or without a reason behind it."""
    match = _VERDICT.fullmatch(plainly(answer))
    return _VERDICTS[match["verdict"].lower()] if match else None


def last_verdict(text: str) -> str | None:
    """Return the last yes, no, true or false that ends a clause; None where its sentence negates, doubts or contradicts it."""
    found = None
    for found in _STANDING.finditer(text):  # noqa: B007 - only the last one counts
        pass
    if not found or found["not"]:
        return None
    start, end = found.start("verdict"), found.end("verdict")
    before = re.split(r"[.!?\n]", text[max(0, start - _LONGEST_CLAUSE) : start])[-1]
    after = re.split(r"[.!?\n]", text[end : end + _LONGEST_CLAUSE])[0]
    around = re.findall(r"[a-z']+", f"{before} {after}".casefold().replace("\u2019", "'"))
    doubted = not _OFF.isdisjoint(re.findall(r"[a-z']+", before.casefold())) or "n't" in before
    verdict = _VERDICTS[found["verdict"].lower()]
    return None if doubted or any(_VERDICTS.get(word, verdict) != verdict for word in around) else verdict


LABELS = ("entailment", "neutral", "contradiction")
"""The labels of entailment, in the order in which data sets number them: 0, 1, 2."""
_LABEL = {
    **dict.fromkeys(("entailment", "entailed", "entails"), "entailment"),
    **dict.fromkeys(("neutral", "undetermined"), "neutral"),
    **dict.fromkeys(("contradiction", "contradicted", "contradicts", "contradictory"), "contradiction"),
}
_BESIDE = words_of(
    "the a an premise hypothesis it is are this that relation relationship between them text sentence sentences statement answer "
    "label one two of to by so thus therefore hence final case clearly these and first second passage context claim be "
    "classified as we have case pair its in conclude conclusion"
)
"""The only words that may stand beside a label; all others may turn it into something else."""
_LONGEST = 20
_BECAUSE = re.compile(r"[,;:.\u2014 ]*\b(?:because|since|as)\b(?! an?\b)", re.IGNORECASE)


def read_label(answer: str) -> str | None:
    """Return the label that an answer plainly gives: itself, or in a short sentence of nothing else, with or without a reason."""
    said, *reason = _BECAUSE.split(plainly(answer)[:2000], maxsplit=1)
    words = re.findall(r"[^\W\d_]+(?:'[a-z]+)?", said.casefold().replace("\u2019", "'"))
    labels = {_LABEL[word] for word in words if word in _LABEL}
    others = [word for word in words if word not in _LABEL and word not in _BESIDE]
    if len(labels) != 1 or len(words) > _LONGEST or others or re.search(r"[-?/|:;0-9_]", said):
        return None
    behind = re.findall(r"[a-z]+", " ".join(reason).casefold())
    return None if any(_LABEL.get(word) not in (None, *labels) for word in behind) or "or" in behind else labels.pop()


def last_label(text: str, sentence_end: re.Pattern[str]) -> str | None:
    """Return the label of the last sentence."""
    sentences = [each for each in sentence_end.split(text[-2000:]) if each.strip("*_` ")]
    return read_label(sentences[-1]) if sentences else None
