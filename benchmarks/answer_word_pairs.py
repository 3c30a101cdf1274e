"""Labelled pairs of kinds choice, boolean, entailment and span, for `answers.py`; labels as in `answer_pairs.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from answer_pairs import Pair, lines

LETTERS = "ABCDEFGHIJ"


def choice_pairs(data: Path, chance: Random, rounds: int) -> Iterator[Pair]:
    """From the date questions with their options."""
    for row in json.loads((data / "bbh/date_understanding.json").read_text(encoding="utf-8"))["examples"] * rounds:
        options = tuple(re.findall(r"^\([A-Z]\) (.*)$", row["input"], re.MULTILINE))
        gold = row["target"].strip("()")
        text = options[LETTERS.index(gold)]
        other = chance.choice([letter for letter in LETTERS[: len(options)] if letter != gold])
        others = options[LETTERS.index(other)]
        right = (
            *(f"The final answer is ({gold}).", f"The answer is {gold}.", f"Answer: {gold}", f"The final answer is {text}."),
            *(f"The final answer is ({gold}) {text}.", f"**Answer: {gold}. {text}**", rf"So \boxed{{{gold}}}.", f"#### ({gold})"),
            *(rf"Thus \boxed{{\text{{{gold}}}}}", rf"The answer is \boxed{{{text}}}.", f"The correct option is **({gold})**."),
            *(
                f"({other}) is a day too late.\n\nThe final answer is ({gold}).",
                f"The correct choice is option {gold}.",
                f"So it is this:\n({gold})",
            ),
            *(f"The final answer is {gold.lower()}.", f"The answer is ({gold}) because a day is added."),
        )
        wrong = (
            *(f"The final answer is ({other}).", f"The final answer is {others}.", f"The final answer is ({gold}) {others}."),
            *(
                f"The final answer is ({gold}) or ({other}).",
                f"The final answer is not ({gold}).",
                f"It is neither ({gold}) nor ({other}).",
            ),
            *(
                "The answer is correct.",
                "The final answer is (Z).",
                f"The final answer is {text} or {others}.",
                "The final answer is all of them.",
            ),
            *(
                f"({gold}) is wrong. The final answer is ({other}).",
                f"The final answer is ({gold}). Wait, no. It is ({other}).",
                "",
            ),
            *(
                f"Accept ({gold}). The final answer is ({other}).",
                f"The final answer is ({other}) {text}.",
                "The final answer is unclear.",
            ),
        )
        yield Pair("choice", chance.choice(right), gold, True, "choice", options)
        yield Pair("choice", chance.choice(wrong), gold, False, "choice", options)


def boolean_pairs(data: Path, chance: Random, rounds: int) -> Iterator[Pair]:
    """From yes/no questions, with their facts as words around."""
    for row in json.loads((data / "strategyqa/dev.json").read_text(encoding="utf-8")) * rounds:
        gold, wrong = ("yes", "no") if row["answer"] else ("no", "yes")
        true, false = ("true", "false") if row["answer"] else ("false", "true")
        lead = " ".join(row["facts"]) + "\n\n"
        ways = (
            *(
                "The final answer is {}.",
                "Answer: {}",
                "The answer is **{}**.",
                r"So \boxed{{{}}}.",
                "#### {}",
                "The answer is: {}",
            ),
            *("The final answer is {}, because the facts say so.", r"Therefore $\boxed{{\text{{{}}}}}$", "So the answer is {}!"),
        )
        case = chance.choice([str.lower, str.capitalize, str.upper])
        both = (
            *(
                "The final answer is yes or no.",
                "The final answer is yes and no.",
                f"The final answer is not {gold}.",
                "It depends.",
            ),
            *(
                f"The final answer is {gold}. Wait, no, it is {wrong}.",
                "The answer is correct.",
                "The final answer is maybe.",
                "",
            ),
            *(
                f"Say {gold}! The final answer is {wrong}.",
                "Is it yes or no?",
                "The final answer is unknown.",
                f"It is not {true}.",
            ),
        )
        yield Pair("boolean", lead + chance.choice(ways).format(case(chance.choice([gold, true]))), gold, True, "boolean")
        yield Pair("boolean", lead + chance.choice(ways).format(case(chance.choice([wrong, false]))), gold, False, "boolean")
        yield Pair("boolean", lead + chance.choice(both), gold, False, "boolean")


FORMS = {
    "entailment": ("entailment", "Entailment", "entailed", "The premise entails the hypothesis", "it is entailment"),
    "neutral": ("neutral", "Neutral", "NEUTRAL", "it is neutral", "the relation is neutral"),
    "contradiction": (
        "contradiction",
        "Contradiction",
        "contradictory",
        "The premise contradicts the hypothesis",
        "it is a contradiction",
    ),
}


def entailment_pairs(chance: Random, count: int) -> Iterator[Pair]:
    """Each label in its forms, the others in theirs, and what is none."""
    ways = (
        "The final answer is {}.",
        "Answer: {}",
        "**Answer:** {}",
        r"So \boxed{{{}}}",
        "#### {}",
        "Thus the answer is {}.",
        "{}.",
    )
    for _ in range(count):
        gold, other = chance.sample(sorted(FORMS), 2)
        none = (
            *(
                f"The final answer is not {gold}.",
                f"The final answer is {gold} or {other}.",
                f"either {gold} or {other}",
                "yes",
                "true",
            ),
            *(
                f"The final answer is {other}, not {gold}.",
                "The final answer is (A).",
                "neither entails nor contradicts",
                "unrelated",
            ),
            *(
                f"non-{gold}",
                f"The final answer is {gold}. Wait, no: {other}.",
                "The answer is correct.",
                f"Is it {gold}?",
                "likely",
                "",
            ),
            *(
                f"The final answer is probably {gold}, but it may be {other}.",
                f"It could be {gold}.",
                f"{gold}/{other}",
                "0",
                "1",
            ),
        )
        yield Pair("entailment", chance.choice(ways).format(chance.choice(FORMS[gold])), gold, True, "entailment")
        yield Pair("entailment", chance.choice(ways).format(chance.choice(FORMS[other])), gold, False, "entailment")
        yield Pair("entailment", chance.choice(none), gold, False, "entailment")


_KEPT = re.compile(r"[A-Z]?[a-z]{3,}")
_NOT_KEPT = frozenset(
    [
        "the",
        "and",
        "for",
        "not",
        "but",
        "are",
        "was",
        "were",
        "had",
        "has",
        "have",
        "how",
        "many",
        "much",
        "she",
        "her",
        "his",
        "him",
        "they",
        "than",
        "then",
        "that",
        "this",
        "with",
        "from",
        "what",
        "who",
        "does",
        "did",
        "each",
        "more",
        "less",
        "least",
        "most",
        "before",
        "after",
        "over",
        "under",
        "about",
        "without",
        "per",
        "all",
    ]
)


def phrases(data: Path) -> list[str]:
    """Runs of two or three words of questions, without articles and words that turn a meaning."""
    found = set()
    for row in lines(data / "gsm8k/test.jsonl"):
        words = row["question"].split()
        for at in range(len(words) - 2):
            run = words[at : at + 2 + at % 2]
            if all(_KEPT.fullmatch(word) and word.lower() not in _NOT_KEPT for word in run) and len(
                set(map(str.lower, run))
            ) == len(run):
                found.add(" ".join(run))
    return sorted(found)


def span_pairs(data: Path, chance: Random, count: int) -> Iterator[Pair]:
    """Words of texts in other dress and other words; then amounts as financial tables have them."""
    runs = phrases(data)
    ways = ("The final answer is {}.", "Answer: {}", "**Answer:** {}", "#### {}", 'The answer is "{}".', "So it is this:\n\n{}")
    for _ in range(count):
        gold, other = chance.sample(runs, 2)
        if gold.lower() == other.lower():
            continue
        words = gold.split()
        right = (gold, gold.lower(), gold.upper(), f"the {gold}", f"{gold},", " ".join(words) + " ", f"**{gold}**")
        wrong = (
            other,
            f"not {gold}",
            f"{gold} or {other}",
            " ".join(words[:-1]),
            f"{gold} {other}",
            " ".join(reversed(words)),
            f"2 {gold}",
        )
        yield Pair("span, words", chance.choice(ways).format(chance.choice(right)), gold, True, "span")
        yield Pair("span, words", chance.choice(ways).format(chance.choice(wrong)), gold, False, "span")
        both = json.dumps([gold, other])
        joined = chance.choice([f"{other}, {gold}", f"{gold} and {other}", f"{other}; the {gold}", both])
        yield Pair("span, several", chance.choice(ways[:4]).format(joined), both, True, "span")
        half = chance.choice(
            [
                gold,
                other,
                f"{gold} and {gold}",
                f"{gold}, {other}, {chance.choice([r for r in runs if r.lower() not in (gold.lower(), other.lower())])}",
            ]
        )
        yield Pair("span, several", chance.choice(ways[:4]).format(half), both, False, "span")
        yield from _amounts(chance, ways[:5])


def _amounts(chance: Random, ways: tuple[str, ...]) -> Iterator[Pair]:
    n = chance.randint(1001, 9_999_999)
    thousands, millions = f"{n:,} thousand", f"{n // 1000}.{n % 1000:03d} million"
    tenth = f"{n % 1000}.{n % 9 + 1}"
    cases = [
        (thousands, millions, f"{n:,} million"),
        (f"${millions}", f"{millions}", f"${n // 1000}.{n % 1000:03d}"),
        (f"${thousands}", f"${n * 1000:,}", f"${n:,}"),
        (f"-{n:,}", f"({n:,})", f"{n:,}"),
        (f"$({n:,})", f"-${n:,}", f"${n:,}"),
        (f"{tenth}%", f"{tenth} percent", f"{n % 1000}.{n % 9 + 2}%" if n % 9 < 8 else f"{n % 1000 + 1}.1%"),
        (f"{tenth}%", f"{tenth} %", f"-{tenth}%"),
        (f"€{n}", f"{n:,} euros", f"${n}"),
        (f"{n} shares", f"{n:,} shares", f"{n} bonds"),
        (f"{n:,}", str(n), str(n + 1)),
        (f"FY {n % 100 + 1950}", f"fy {n % 100 + 1950}", f"FY {n % 100 + 1951}"),
    ]
    gold, right, wrong = chance.choice(cases)
    yield Pair("span, amounts", chance.choice(ways).format(right), gold, True, "span")
    yield Pair("span, amounts", chance.choice(ways).format(wrong), gold, False, "span")
