"""Answers: what is read out of a text, and what is the same. Properties first, then tables of cases, each a line."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.answers.answer import extract, normalise, same_answer
from orchestrator.answers.quantities import read, tidy, written
from store.types import Kind

KINDS: tuple[Kind, ...] = ("math", "choice", "boolean")
OPTIONS = ("12/11/1937", "12/25/1937", "Mr. Smith went home.", "an apple")
PIECES = [*"0123456789abAB()[]{}$\\,./%-+=*_^ \n", r"\boxed{", r"\frac", r"\text{", "answer is ", "yes", "no", "or", "¤", "x = "]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
ANY_TEXT = st.one_of(st.text(), HOSTILE, st.lists(HOSTILE).map(" The final answer is ".join))
NUMBERS = st.fractions(max_denominator=1000).filter(lambda f: abs(f) < 10**12)
KIND = st.sampled_from(KINDS)
CHOICES = st.sampled_from([(), OPTIONS, ("yes", "no"), ("1", "2", "3"), ("B", "A")])


@given(ANY_TEXT, ANY_TEXT, KIND, CHOICES)
@example("fal\u017fe", "\u212a", "boolean", ())  # letters that equal s and k when case is ignored
@example("9" * 5000, "1/" + "9" * 5000, "math", ())
@example("(\u212a)", "\u017f", "choice", ())
def test_nothing_raises_and_same_answer_is_symmetric(a: str, b: str, kind: Kind, choices: tuple[str, ...]) -> None:
    assert same_answer(a, b, kind, choices) == same_answer(b, a, kind, choices)
    assert extract(a, kind, choices) is None or isinstance(extract(a, kind, choices), str)
    assert isinstance(normalise(a, kind, choices), str)


@given(ANY_TEXT, KIND, CHOICES)
def test_normalising_never_makes_an_answer_of_what_is_none(text: str, kind: Kind, choices: tuple[str, ...]) -> None:
    once = normalise(text, kind, choices)
    if kind == "math":
        assert (read(tidy(text)) is None) == (read(tidy(once)) is None)
    else:
        assert same_answer(text, text, kind, choices) == same_answer(once, once, kind, choices)


def _dresses(value: Fraction) -> list[str]:
    """Ways to write one number."""
    plain = written(value)
    fraction = f"{value.numerator}/{value.denominator}"
    sign = "-" if value < 0 else ""
    latex = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    dresses = [
        plain,
        fraction,
        latex,
        f"${latex}$",
        f"{plain} apples",
        rf"\boxed{{{plain}}}",
        f"**{plain}**",
        f"x = {plain}",
        f" {plain}. ",
    ]
    if value.denominator == 1:
        dresses += [
            f"{value.numerator:,}",
            f"{plain}.00",
            f"{plain}.0 of the {'apples'}",
            f"${plain}",
            rf"\${plain}",
            f"{plain}%",
        ]
        dresses += [f"${plain}$ marbles left", rf"\text{{{plain} boxes}}", f"{plain}/1", plain.replace("-", "\u2212")]
    return dresses


@given(NUMBERS, st.data())
def test_equal_numbers_in_different_dress_are_the_same(value: Fraction, data: st.DataObject) -> None:
    dress = data.draw(st.sampled_from(_dresses(value)))
    assert same_answer(written(value), dress, "math")
    assert read(tidy(normalise(dress, "math"))) is not None


@given(NUMBERS, NUMBERS, st.data())
def test_different_numbers_are_different_in_every_dress(one: Fraction, other: Fraction, data: st.DataObject) -> None:
    a, b = data.draw(st.sampled_from(_dresses(one))), data.draw(st.sampled_from(_dresses(other)))
    share = {(a.endswith("%"), one / other if other else 0), (b.endswith("%"), other / one if one else 0)}
    assert one == other or (True, Fraction(100)) in share or not same_answer(a, b, "math")


@given(
    NUMBERS,
    st.sampled_from(["The final answer is {}", "So 2 + 2 is 4.\n\n**Final Answer**: {}.", "<think>7</think>\n\n#### {}"]),
    st.data(),
)
def test_an_answer_comes_back_out_of_its_statement(value: Fraction, statement: str, data: st.DataObject) -> None:
    dress = data.draw(st.sampled_from(_dresses(value)))
    found = extract(statement.format(dress), "math")
    assert found is not None
    assert same_answer(found, written(value), "math")


@given(
    st.sampled_from("ABCD"), st.sampled_from(["The final answer is ({}).", "Answer: {}", r"So it is \boxed{{{}}}", "Thus:\n{}"])
)
def test_a_letter_comes_back_out_of_its_statement(letter: str, statement: str) -> None:
    assert extract(statement.format(letter), "choice", OPTIONS) == letter


@given(st.integers(0, 3))
def test_an_option_is_the_same_as_its_letter(index: int) -> None:
    letter = "ABCD"[index]
    for dress in (
        letter,
        letter.lower(),
        f"({letter})",
        OPTIONS[index],
        f"{letter}. {OPTIONS[index]}",
        f"({letter}) {OPTIONS[index]}",
    ):
        assert same_answer(letter, dress, "choice", OPTIONS)
        assert not same_answer("ABCD"[(index + 1) % 4], dress, "choice", OPTIONS)


STATED = [
    ("The final answer is 42 apples.", "42"),
    ("The final answer is $42.00.", "42 dollars"),
    (r"The final answer is \$1,080", "1080 dollars"),
    ("The final answer is 5 + 3 = 8.", "8"),
    ("The final answer is that Tom has 8 apples left.", "8"),
    ("The final answer is 8.\n\nThe final answer is 9.", "9"),
    ("The final answer is:\n\n$$\n\\boxed{42}\n$$", "42"),
    ("**Final Answer**\n\n42", "42"),
    ("The final answer is the number of eggs: \n\\boxed{18}", "18"),
    (r"The final answer is \boxed{42} because 2 of them left.", "42"),
    (r"The final answer is $1\frac{1}{2}$", "1.5"),
    (r"The final answer is \dfrac13", "1/3"),
    (r"The final answer is 1{,}000", "1000"),
    (r"The final answer is 90^\circ", "90 degrees"),
    ("The final answer is 60 miles per hour", "60 miles"),
    ("The final answer is 3 million people", "3000000"),
    ("#### -1,234", "-1234"),
    ("<think>It is 9.</think>\n\nThe final answer is 0.50", "0.5"),
    ("The answer to the question is 7.", "7"),
    ("Tom has 8 apples left.", "8"),
    ("5 + 3 = 8\nSo he has 8.", "8"),
    ("Hence 12 - 4 = 8 dollars.", "8 dollars"),
    (r"The final answer is $\sqrt{2}$.", r"\sqrt{2}"),
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_what_a_text_states(text: str, answer: str) -> None:
    assert extract(text, "math") == answer


NONE_STATED = [
    "",
    "No number here.",
    "The final answer is",
    "I have 4.\nThe final answer is **",
    "5 + 3",
    "It takes 3x",
    "So it is 5-7",
    "12/25/1937",
]


@pytest.mark.parametrize("text", NONE_STATED)
def test_texts_without_an_answer(text: str) -> None:
    assert extract(text, "math") is None


UNCLEAR = [
    "12 or 15",
    "either 12",
    "about 12",
    "12 or fifteen",
    "not 12",
    "12, 15",
    "12 and 15",
    "12 to 15",
    "12-15",
    "12?",
    "12!",
    "12...",
    "12x",
    "12 x",
    "12^2",
    "12 squared",
    "12 halves",
    "12 dozen",
    "12:00",
    "12th",
    "more than 12",
    "12 more than 3",
    "12e3",
    "12 thousand",
    "-12",
    "1.2",
    r"\sqrt{12}",
    r"\boxed{12} or \boxed{15}",
    r"12 or \boxed{15}",
    "x = 12 or x = 15",
    "12/1/1",
    "12 1/1",
    "\u0661\u0662",
    "1\u00b2",
]


@pytest.mark.parametrize("text", UNCLEAR)
@pytest.mark.parametrize("gold", ["12", "15"])
def test_what_is_not_plainly_twelve_is_not_twelve(text: str, gold: str) -> None:
    assert not same_answer(text, gold, "math")
    stated = extract(f"The final answer is {text}", "math")
    assert stated is None or not same_answer(stated, gold, "math")


DIFFERENT = [
    ("3 minutes", "3 hours"),
    ("5 am", "5 pm"),
    ("50%", "0.05"),
    ("50%", "5000"),
    ("50%", "0.5%"),
    ("$5", "5 cents"),
    ("1/3", "0.333"),
    ("", ""),
    ("x+1", "x+2"),
    ("X", "x"),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_mathematics(a: str, b: str) -> None:
    assert not same_answer(a, b, "math")


SAME = [
    ("3 hours", "3"),
    ("3 hr", "3 hours"),
    ("$5", "5 dollars"),
    ("x + 1", "$x+1$"),
    (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}"),
    ("1 1/2", "3/2"),
    ("50%", "50 percent"),
    ("50%", r"50\%"),
    ("50%", "0.5"),
    ("50%", "1/2"),
    ("50%", "50"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same_mathematics(a: str, b: str) -> None:
    assert same_answer(a, b, "math")


CHOSEN = [
    ("The final answer is (B).", "B"),
    ("The final answer is 12/25/1937.", "B"),
    ("The final answer is Mr. Smith went home.", "C"),
    ("The answer is option B.", "B"),
    ("Thus (A) fails. Hence (B) holds.", "B"),
    ("The correct option is **B**.", "B"),
    ("It cannot be (A) or (B).", None),
    ("It is not (B).", None),
    ("A dog", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), CHOSEN)
def test_which_option_a_text_chooses(text: str, letter: str | None) -> None:
    assert extract(text, "choice", OPTIONS) == letter


@pytest.mark.parametrize("text", ["(B) 12/11/1937", "(A) or (B)", "(Z)", "B or C", "an apple or 12/25/1937", "not (B)"])
def test_what_names_no_one_option_equals_none(text: str) -> None:
    stated = extract(f"The final answer is {text}", "choice", OPTIONS)
    assert not any(same_answer(stated or "", letter, "choice", OPTIONS) for letter in "ABCD")
    assert not any(same_answer(text, letter, "choice", OPTIONS) for letter in "ABCD")


def test_a_letter_that_is_another_options_text_is_none() -> None:
    assert not same_answer("A", "A", "choice", ("B", "A"))
    assert same_answer("(A)", "(A)", "choice", ("B", "A"))


JUDGED = [
    ("The final answer is yes.", "yes"),
    ("The final answer is No, because it rains.", "no"),
    (r"The final answer is \boxed{\text{Yes}}", "yes"),
    ("So the statement is false.", "no"),
    ("True!", "yes"),
    ("There is no doubt.", None),
    ("It is not true.", None),
    ("Is it yes or no?", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "verdict"), JUDGED)
def test_how_a_text_judges(text: str, verdict: str | None) -> None:
    assert extract(text, "boolean") == verdict


@pytest.mark.parametrize(
    "text", ["yes or no", "yes and no", "not true", "maybe", "no more than that", "yes, or no", "true/false", ""]
)
def test_what_is_no_verdict_equals_none(text: str) -> None:
    stated = extract(f"The final answer is {text}", "boolean") or ""
    assert not any(same_answer(each, verdict, "boolean") for each in (text, stated) for verdict in ("yes", "no"))


HOSTILE_UNITS = [
    *["$", "$$ ", r"\boxed{", "{", "}", r"\frac{1}{", r"\text{", "answer ", "answer is ", "final answer\n", ".*", "1,", "1,000"],
    *["1 ", "1/", "9", "yes ", "(A) ", "- ", "= ", ". ", " ", "\n", "a ", "##", "####", "**", "1.", "x=", "dozen ", "**yes**"],
    *["\\", "\\,", "!*", "12 thousand ", "not ", "answer to the ", "``"],
]


@pytest.mark.parametrize("unit", HOSTILE_UNITS)
@pytest.mark.parametrize("before", ["", "The final answer is ", "1 "])
def test_time_is_linear_in_the_text(unit: str, before: str) -> None:
    text = before + unit * (50_000 // len(unit)) + "~"
    start = time.perf_counter()
    for kind in KINDS:
        extract(text, kind, OPTIONS)
        same_answer(text, text + "1", kind, OPTIONS)
    assert time.perf_counter() - start < 3  # quadratic: minutes
