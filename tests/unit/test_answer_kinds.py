"""Answers of the kinds beside numbers, letters and verdicts, and where one stood; mathematics that is decided without algebra."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.answers.answer import Found, compare, extract, find_answer, normalise, read_form
from orchestrator.answers.expressions import Words, matched, read_mathematics
from orchestrator.answers.spans import f1
from store.types import Kind

KINDS: tuple[Kind, ...] = ("math", "choice", "boolean", "entailment", "span", "open")
PIECES = [
    *"0123456789abxAI()[]{}$\\,./%-+=*_^ \n;&|!<>",
    r"\boxed{",
    r"\frac",
    r"\sqrt",
    r"\text{",
    r"\pm",
    r"\cup",
    r"\{",
    r"\}",
]
PIECES += [
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\\",
    "answer is ",
    "neutral",
    "entails",
    " and ",
    "million",
    '["',
    '", "',
    '"]',
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
ANY_TEXT = st.one_of(st.text(), HOSTILE, st.lists(HOSTILE).map(" The final answer is ".join))
KIND = st.sampled_from(KINDS)
CHOICES = st.sampled_from([(), ("red", "blue"), ("1", "2")])


@given(ANY_TEXT, ANY_TEXT, KIND, CHOICES)
def test_nothing_raises_and_comparing_is_symmetric(a: str, b: str, kind: Kind, choices: tuple[str, ...]) -> None:
    assert compare(a, b, kind, choices) is compare(b, a, kind, choices)
    found = find_answer(a, kind, choices)
    assert (found.answer if found else None) == extract(a, kind, choices)
    assert found is None or found.where in ("statement", "box", "last")
    assert 0 <= f1(a, b) == f1(b, a) <= 1


@given(HOSTILE, KIND, CHOICES)
def test_what_is_plainly_an_answer_is_the_same_as_itself(text: str, kind: Kind, choices: tuple[str, ...]) -> None:
    assert read_form(text, kind, choices) is None or compare(text, text, kind, choices) is True


@given(HOSTILE, KIND, CHOICES)
def test_the_normal_form_says_the_same(text: str, kind: Kind, choices: tuple[str, ...]) -> None:
    if kind in ("math", "entailment", "boolean") and not isinstance(read_form(text, kind, choices), Words | None):
        assert compare(text, normalise(text, kind, choices), kind, choices) is True


WHERE = [
    ("So 3 + 4 = 7.\n\nThe final answer is 7.", "math", Found("7", "statement")),
    (r"The final answer is \boxed{7}.", "math", Found("7", "statement")),
    (r"So it is \boxed{7}.", "math", Found("7", "box")),
    (r"So it is \boxed{3 + 4 = 7}.", "math", Found("7", "box")),
    ("So she has 7 apples.", "math", Found("7", "last")),
    ("I would guess 7, or maybe 0.7.", "math", None),
    ("The final answer is 7. Wait, that is wrong: it is 8.", "math", None),
    ("The final answer is 7.\n\nNo, I made a mistake; it is 8.", "math", None),
    ("The final answer is 8. A common wrong answer is 7.", "math", Found("8", "statement")),
    ("The final answer is 7. Waiters came.", "math", Found("7", "statement")),
    (r"It is \boxed{7} or \boxed{8}.", "math", None),
    (r"It is about \boxed{7}.", "math", None),
    (r"It is \boxed{7} or so.", "math", None),
    (r"It is \boxed{}.", "math", None),
    (r"The final answer is $x^\frac{3}{2}$.", "math", Found(r"x^\frac{3}{2}", "statement")),
    (r"The final answer is \(\sqrt{2}\) meters.", "math", Found(r"\sqrt{2} meters", "statement")),
    ("The final answer is 2x + 3y = 7.", "math", Found("2x + 3y = 7", "statement")),
    ("Thus (A) fails. Hence (B) holds.", "choice", Found("B", "last")),
    ("It cannot be (A).", "choice", None),
    ("Is it (A)?", "choice", None),
    ("So the statement is false.", "boolean", Found("no", "last")),
    ("Perhaps yes.", "boolean", None),
    ("No, that is true.", "boolean", None),
    ("The relationship is contradiction.", "entailment", Found("contradiction", "last")),
    ("**Answer:** Neutral", "entailment", Found("neutral", "statement")),
    ("The final answer is Mr. J. Smith. He won.", "span", Found("Mr. J. Smith", "statement")),
    ("The final answer is $5.2 million.", "span", Found("$5.2 million", "statement")),
    ("It is in the text.\n\nParis", "span", Found("Paris", "last")),
    ("Who knows?", "span", None),
    ("word " * 100, "span", None),
    ("<think>No.</think> Two lines,\nboth of them.", "open", Found("Two lines,\nboth of them.", "last")),
    (" ", "open", None),
]


@pytest.mark.parametrize(("text", "kind", "found"), WHERE)
def test_where_an_answer_stands(text: str, kind: Kind, found: Found | None) -> None:
    assert find_answer(text, kind) == found


LABELLED = [
    ("entailment", "entailment"),
    ("**Entailed**", "entailment"),
    ("The premise entails the hypothesis", "entailment"),
    (r"\boxed{\text{Neutral}}", "neutral"),
    ("it is neutral", "neutral"),
    ("undetermined", "neutral"),
    ("Neutral, because the text does not say it", "neutral"),
    ("contradicts", "contradiction"),
    ("The relationship between the two is contradiction", "contradiction"),
]
UNLABELLED = [
    *["", "yes", "true", "(A)", "A", "0", "1", "unrelated", "likely", "not neutral", "non-entailment", "not_entailment"],
    *[
        "entailment or neutral",
        "entailment/neutral",
        "neither entails nor contradicts",
        "There is no contradiction",
        "Entailment: no",
    ],
    *[
        "Entailment: 0%",
        "It lacks entailment",
        "The opposite of neutral",
        "Is it neutral?",
        "doesn't contradict",
        "probably neutral",
    ],
    *["neutral, because it is no contradiction", "entailment cannot be established", "neutral, not entailment", "half neutral"],
]


@pytest.mark.parametrize(("text", "label"), LABELLED)
def test_labels(text: str, label: str) -> None:
    assert compare(text, label, "entailment") is True
    assert not any(compare(text, other, "entailment") for other in {"entailment", "neutral", "contradiction"} - {label})


@pytest.mark.parametrize("text", UNLABELLED)
def test_what_is_no_label_equals_none(text: str) -> None:
    stated = extract(f"The final answer is {text}.", "entailment") or ""
    for each in (text, stated, extract(text, "entailment") or ""):
        assert not any(compare(each, label, "entailment") for label in ("entailment", "neutral", "contradiction", text))


SAME_SPANS = [
    ("The Beatles", "beatles"),
    ("Mr. Smith", "mr smith"),
    ("Jean-Paul", "Jean Paul"),
    ("U.S. dollars", "US dollars"),
    ('"Paris"', "**Paris**."),
    ("A", "a"),
    ("1,234 thousand", "1.234 million"),
    ("$5.2 million", "5.2 million"),
    ("$5.2M", "$5,200,000"),
    ("$12.5bn", "12,500 million dollars"),
    ("12.5%", "12.5 percent"),
    ("12.5%", "12.5"),
    ("12.5%", "0.125"),
    ("(1,234)", "-1,234"),
    ("$(1,234)", "-$1,234"),
    ("(12.5%)", "-12.5%"),
    ("\u22125", "-5"),
    ("five", "5"),
    ("42 apples", "42"),
    ("May 1,937", "may 1937"),
    ("3-4", "3\u20134"),
    ('["a dog", "two cats"]', "two cats, a dog"),
    ('["a dog", "two cats"]', "dog and two cats"),
    ('["x", "y", "z"]', "z, y, and x"),
    ('["1,234", "5,678"]', "5,678; 1,234"),
    ('["x", "x"]', '["x", "x"]'),
    ('["x"]', "x"),
]
OTHER_SPANS = [
    ("", ""),
    ("...", "..."),
    ("Barack Obama", "Michelle Obama"),
    ("not guilty", "guilty"),
    ("dog bites man", "man bites dog"),
    ("$5.2 million", "5.2"),
    ("$5.2 million", "$5.2 billion"),
    ("(1,234)", "1,234"),
    ("-5", "5"),
    ("5.2", "52"),
    (".5", "5"),
    ("3-4", "34"),
    ("3/4", "34"),
    ("3:30", "330"),
    ("1990s", "1990"),
    ("7-Eleven", "7"),
    ("C#", "C"),
    ("42 apples", "42 oranges"),
    ("12 May", "12"),
    ("12 May", "12 June"),
    ("10 km", "10 miles"),
    ("€5", "$5"),
    ("x, y", "y, x"),
    ('["x", "y"]', "x"),
    ('["x", "y"]', "x, x"),
    ('["x", "y"]', "x, y, z"),
    ('["x", "x"]', '["x", "y"]'),
    ('["2019", "2018"]', "2019"),
]


@pytest.mark.parametrize(("a", "b"), SAME_SPANS)
def test_same_spans(a: str, b: str) -> None:
    assert compare(a, b, "span") is compare(b, a, "span") is True


@pytest.mark.parametrize(("a", "b"), OTHER_SPANS)
def test_other_spans(a: str, b: str) -> None:
    assert compare(a, b, "span") is compare(b, a, "span") is False


OVERLAPS = [
    ("Barack Obama", "Obama", 2 / 3),
    ("in the Paris of old", "Paris", 2 / 5),
    ("1937", "May 1937", 2 / 3),
    ("5 years", "6 years", 0),
    ("five years", "six years", 0),
    ("5 years", "years", 0),
    ("not guilty", "guilty", 0),
    ("Paris or London", "Paris", 0),
    ("about Paris", "Paris", 0),
    ("$5 million profit", "$5 billion profit", 0),
    ('["red", "blue"]', "blue and red", 4 / 5),
    ("", "", 0),
]


@pytest.mark.parametrize(("answer", "target", "overlap"), OVERLAPS)
def test_overlap_of_words_with_numbers_equal_in_any_case(answer: str, target: str, overlap: float) -> None:
    assert f1(answer, target) == pytest.approx(overlap)


WORDS = [
    *[
        "5-7",
        "12/25/1937",
        "4:3",
        "3 x 4",
        "1 + 1",
        "12 or 15",
        "hello",
        "2xq",
        "1/2x",
        r"1/2\pi",
        r"2\frac{1}{2}x",
        "x2",
        "12e3",
        "12!!",
    ],
    *[
        "x^",
        "x+",
        "(x",
        "x)",
        "[x]",
        "5(3)2",
        r"\int x dx",
        r"\mathbb{R}",
        r"30^\circ x",
        "dx",
        "I",
        "x'",
        "f(x",
        "a=b=c=d",
        "9" * 500,
    ],
    *[
        *["x^1/2", "||x|-1|", "|x", r"\sin", r"\sin x(y)", r"\sqrt12"],
        "(" * 40 + "x" + ")" * 40,
        r"\frac{x}",
        r"\sqrt",
        "x & y",
        "$x$ and $y$",
        r"x\\y",
        r"\input{file}",
        "x\u202ey",
        "",
    ],
]


@pytest.mark.parametrize("text", WORDS)
def test_what_is_not_plainly_an_expression_is_words(text: str) -> None:
    assert isinstance(read_mathematics(text), Words | None)


UNDECIDED = [
    ("x + 1", "1 + x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"2^{10}", "1024"),
    ("X", "x"),
    ("2x = 4", "x + 1 = 2y"),
    ("(x, 1)", "(y, 1)"),
]


@pytest.mark.parametrize(("a", "b"), UNDECIDED)
def test_only_symbolic_equality_can_tell(a: str, b: str) -> None:
    assert compare(a, b, "math") is None


DECIDED = [
    ("1/2", "0.5", True),
    ("1/3", "0.333", False),
    (r"\sqrt{2}", r"$\sqrt 2$", True),
    ("(1, 2)", r"\left(1,2\right)", True),
    ("(1, 2)", "(2, 1)", False),
    ("(1, 2)", "[1, 2]", False),
    ("1, 2", r"\{2, 1\}", True),
    (r"\{1, 2\}", "(1, 2)", False),
    ("(1, x)", "(2, x)", False),
    (r"x = \pm 2", "2, -2", True),
    (r"\pm 2", "2", False),
    (r"(-\infty, 1) \cup [2, 3]", r"[2,3]\cup(-\infty,1)", True),
    ("x > 3", r"x \ge 3", False),
    ("x > 3", "3 < x", True),
    ("x + 1 = 2y", "x + 1", False),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4.0\end{bmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
    (r"2\pi \text{ cm}", r"2\pi \text{ m}", False),
    (r"2\pi \text{ cm}", r"2\pi", None),
    ("x", "hello", False),
    ("5", "hello", False),
]


@pytest.mark.parametrize(("a", "b", "same"), DECIDED)
def test_what_is_decided_without_algebra(a: str, b: str, same: bool | None) -> None:
    assert compare(a, b, "math") is compare(b, a, "math") is same


def test_pairing_off_finds_a_way_that_greed_misses() -> None:
    assert matched([[True, True], [True, False]]) is True
    assert matched([[True, None], [True, False]]) is None
    assert matched([[True, False], [True, False]]) is False
    assert matched([]) is True


def test_an_open_answer_equals_only_its_own_text() -> None:
    assert compare("Because it rains.", " because  it rains.", "open") is True
    assert compare("Because it rains.", "It rains.", "open") is False
    assert compare("", "", "open") is False


UNITS = [
    "(",
    "{",
    "[",
    "\\",
    r"\{",
    r"\frac{",
    r"\begin{pmatrix}",
    "&",
    "x,",
    "1,",
    "- ",
    "=",
    "<",
    "^",
    "_",
    '["',
    "a and ",
    "neutral ",
    ";",
]
UNITS += [
    "$",
    "9",
    "(1",
    "$5bn ",
    "the ",
    "1,000",
    r"\boxed{",
    "wait ",
    "\n",
    "No. ",
    "yes. ",
    "(A) ",
    "because ",
    r"\text{",
    "A. ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_in_the_text(unit: str) -> None:
    text = unit * (50_000 // len(unit)) + "~"
    start = time.perf_counter()
    for kind in KINDS:
        for before in ("", "The final answer is "):
            extract(before + text, kind)
        compare(text, text + "1", kind)
    f1(text, text + "1")
    assert time.perf_counter() - start < 4  # quadratic: minutes
