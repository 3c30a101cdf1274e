"""The generator of word problems: splits, arithmetic, English, and the same problems everywhere."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import WordProblems
from orchestrator.questions.load import QuestionsError, load_questions
from orchestrator.questions.word_problems import Sum, word_problems
from orchestrator.questions.word_templates import HE, SHE, THEMES
from store.types import Question

SEEDS = st.integers(0, 2**32)


def _source(**parts: object) -> WordProblems:
    return WordProblems.model_validate({"kind": "word_problems", "count": 60} | parts)


def _numbers(question: Question) -> list[int]:
    """The numbers of a problem, as its equation uses them."""
    return [int(n) for n in re.findall(r"\d+", question.meta["equation"].partition("=")[0])]


def _evaluate(text: str) -> Fraction:
    """Evaluate a sum by Python's own grammar."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        left, right = value(node.left), value(node.right)
        kinds = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right, ast.Div: left / right}
        return kinds[type(node.op)]

    return value(ast.parse(text.strip(), mode="eval").body)


def _alike(question: Question) -> tuple[object, ...]:
    """The operations and numbers of a problem, as a set: coarser than what decides the split."""
    return tuple(sorted(_numbers(question))), tuple(sorted(re.findall(r"[-+*/]", question.meta["equation"]))), question.answer


@given(SEEDS, SEEDS, st.sampled_from([10, 20, 100]), st.sampled_from([10, 20, 100]))
@settings(max_examples=40)
def test_splits_share_no_sum_whatever_the_seeds(seed: int, other: int, largest: int, other_largest: int) -> None:
    train = word_problems(_source(seed=seed, largest=largest))
    held_out = word_problems(_source(seed=other, largest=other_largest, split="held_out"))
    assert not {q.meta["equation"] for q in train} & {q.meta["equation"] for q in held_out}
    assert not {q.id for q in train} & {q.id for q in held_out}


def test_a_whole_split_shares_no_sum_with_the_other() -> None:
    train = word_problems(_source(count=3000, largest=10, operations=[1]))
    held_out = word_problems(_source(count=3000, largest=10, operations=[1], split="held_out", seed=5))
    assert not {_alike(q) for q in train} & {_alike(q) for q in held_out}


def test_sums_that_mean_the_same_have_one_split() -> None:
    assert Sum(5, (("+", 3),)).canonical == Sum(3, (("+", 5),)).canonical
    assert Sum(5, (("*", 3),)).canonical == Sum(3, (("*", 5),)).canonical
    assert Sum(9, (("+", 2), ("-", 4))).canonical == Sum(2, (("-", 4), ("+", 9))).canonical
    assert Sum(5, (("+", 3), ("*", 2))).canonical == Sum(3, (("+", 5), ("*", 2))).canonical
    assert Sum(5, (("+", 3), ("*", 2))).canonical != Sum(5, (("*", 2), ("+", 3))).canonical
    assert Sum(12, (("/", 4),)).canonical != Sum(12, (("*", 4),)).canonical
    assert Sum(8, (("-", 2),)).canonical != Sum(2, (("-", 8),)).canonical


@given(SEEDS, st.sampled_from(["train", "held_out"]), st.sampled_from([10, 20, 1000]))
@settings(max_examples=40)
def test_arithmetic_is_right_and_within_bounds(seed: int, split: str, largest: int) -> None:
    for question in word_problems(_source(seed=seed, split=split, largest=largest)):
        equation, _, result = question.meta["equation"].partition("=")
        assert _evaluate(equation) == int(result) == int(question.answer or "")
        assert all(2 <= number <= largest for number in _numbers(question))
        steps = [re.search(r": (\d+ [-+*/] \d+) = (\d+)\.$", step) for step in question.meta["solution"]]
        results = [int(step[2]) for step in steps if step and _evaluate(step[1]) == int(step[2])]
        assert len(results) == len(steps) == question.meta["operations"]
        assert results[-1] == int(question.answer or "")
        assert all(1 <= value <= 5 * largest for value in results)
        chained = [int(step[1].split()[0]) for step in steps[1:] if step]
        assert chained == results[:-1]


@given(SEEDS)
@settings(max_examples=20)
def test_every_number_of_the_text_is_one_of_the_sum(seed: int) -> None:
    for question in word_problems(_source(seed=seed)):
        told = [int(n) for n in re.findall(r"\d+", question.text)]
        told += [2] * len(re.findall(r"\btwice\b|\bhalf\b", question.text))
        assert sorted(told) == sorted(_numbers(question))


def test_no_two_problems_of_a_set_are_alike() -> None:
    problems = word_problems(_source(count=5000))
    assert len({q.id for q in problems}) == len({_dressless(q.text) for q in problems}) == 5000


def _dressless(text: str) -> str:
    """A problem's sentences, without its last question, names and things."""
    body = " ".join(re.split(r"(?<=\.) ", text)[:-1])
    things = sorted({thing for theme in THEMES for thing in theme.things if thing}, key=len, reverse=True)
    boxes = [word for theme in THEMES for pair in theme.boxes for word in pair if word]
    body = re.sub(rf"\b({'|'.join([*HE, *SHE])})\b", "N", re.sub(rf"\b({'|'.join([*things])})\b", "T", body))
    body = re.sub(rf"\b({'|'.join(sorted(set(boxes), key=len, reverse=True))})\b", "B", body)
    body = re.sub(r"\b(he|she)\b", "P", re.sub(r"\b(his|him|her)\b", "O", body))
    return (
        re.sub(r"\b(?:Then|Later,|After that,) (\w)", lambda match: match[1].upper(), body)
        .replace("He ", "P ")
        .replace("She ", "P ")
    )


def test_operations_come_evenly_and_fewer_are_the_first_of_more() -> None:
    many = word_problems(_source(count=90, operations=[1, 3]))
    assert [q.meta["operations"] for q in many] == [1, 3] * 45
    assert word_problems(_source(count=17, operations=[1, 3])) == many[:17]
    assert word_problems(_source(count=17, operations=[1, 3], seed=1)) != many[:17]


MISTAKES = [
    r"\b1 \w+s\b",
    r"  ",
    r"[{}_]",
    r"\.\.",
    r"\b(\w+) \1\b",
    r"\ba [aeiou]",
    r"[.?] [a-z]",
    r",\S",
    r" [,.?]",
    r"\bthem\b",
    r"\bhe\b.*\bher\b [^A-Z]*\bhe\b",
]


def test_english() -> None:
    for question in word_problems(_source(count=6000, largest=30)):
        for text in (question.text, *question.meta["solution"]):
            assert not [mistake for mistake in MISTAKES if re.search(mistake, text)], text
            assert text[0].isupper() or text[0].isdigit()
        assert question.text.endswith("?")
        assert question.text.count("?") == 1
        assert len(question.text.split()) < 80


def test_pronouns_follow_their_subject() -> None:
    """A pronoun's sentence, or one before it, names someone of that gender last, save the friend whom it distinguishes."""
    for question in word_problems(_source(count=2000)):
        names = re.findall(rf"\b({'|'.join([*HE, *SHE])})\b", question.text)
        if re.search(r"\b(he|him|his)\b", question.text, re.IGNORECASE):
            assert set(names) & set(HE), question.text
        if re.search(r"\b(she|her)\b", question.text, re.IGNORECASE):
            assert set(names) & set(SHE), question.text


def test_more_than_there_are_is_one_line_with_the_number_there_is() -> None:
    only = r"^word_problems: 100000 problems asked for, but only \d{4,5} found in split 'train': "
    with pytest.raises(QuestionsError, match=only) as caught:
        load_questions(_source(count=100_000, largest=10, operations=[1]), Path())
    assert "\n" not in str(caught.value)


def test_the_same_problems_on_every_machine() -> None:
    problems = word_problems(_source(count=500, seed=7))
    kept = json.dumps([[q.id, q.text, q.answer, q.meta["solution"]] for q in problems], ensure_ascii=False)
    assert hashlib.sha256(kept.encode()).hexdigest()[:16] == "84884ca2a409d2f4"
