"""The checker with real child processes: what they call equal, and that nothing hangs, crashes or outlives it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.answers.answer import read_form
from orchestrator.answers.checker import Checker, open_checker
from store.types import Kind, Question

T = TypeVar("T")
DEADLINE_S = 3.0


def with_checker(work: Callable[[Checker], Awaitable[T]], *, deadline_s: float = DEADLINE_S, workers: int = 2) -> T:
    """The result of `work`; afterwards no child is left."""

    async def run() -> tuple[T, list[int]]:
        async with open_checker(deadline_s=deadline_s, workers=workers) as checker:
            result = await work(checker)
            pids = checker.algebra.pids
        return result, pids

    result, pids = asyncio.run(run())
    assert not [pid for pid in pids if alive(pid)]
    return result


def alive(pid: int) -> bool:
    """Whether the process, or its unreaped rest, is there."""
    return Path(f"/proc/{pid}").exists()


def question(kind: Kind, answer: str | None, *aliases: str) -> Question:
    return Question(id="q", text="?", answer=answer, kind=kind, aliases=aliases)


EQUAL = [
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{3}{\sqrt{5}}", r"\frac{3\sqrt{5}}{5}"),
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    ("sqrt(2)/2", r"\frac{\sqrt2}{2}"),
    ("√2", r"\sqrt{2}"),
    ("2^{10}", "1024"),
    ("x^10", "x^{10}"),
    (r"3\times 10^8", "300,000,000"),
    (r"\sqrt{4}", "2"),
    (r"\sqrt{\frac{1}{4}}", "50%"),
    ("x + 1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x(x+1)", "x^2+x"),
    ("2xy", "2yx"),
    (r"\frac{1}{2}x", "0.5x"),
    (r"-\frac12x", "-x/2"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"),
    ("|x|", r"\sqrt{x^2}"),
    ("π/2", r"\frac{\pi}{2}"),
    (r"1,000\pi", r"1000\pi"),
    (r"25\pi \text{ cm}", r"25\pi"),
    (r"12\pi \text{ square units}", r"$12\pi$"),
    (r"e^{i\pi}", "-1"),
    ("3+4i", "4i+3"),
    ("i^2", "-1"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\cos\frac{\pi}{3}", "1/2"),
    (r"\arcsin x", r"\sin^{-1} x"),
    (r"\ln 8", r"3\ln 2"),
    (r"\log_2 8", "3"),
    ("e^{x+1}", r"e\cdot e^x"),
    ("5!", "120"),
    ("(2)(6)+x", "12+x"),
    ("x(3)(1)+1", "3x+1"),
    ("n(n-1)!", "n \\cdot (n-1)!"),
    (r"\sin x \cos y", r"\cos y \sin x"),
    (r"|x|+|-y|", r"\left|y\right|+|x|"),
    (r"\binom{5}{2}", "10"),
    (r"\infty", r"\infty"),
    ("x^2+y^2=1", "y^2=1-x^2"),
    ("2x+2y=2", "x+y=1"),
    ("2x > 4", "2 < x"),
    (r"0 \le 2x < 6", r"3 > x \ge 0"),
    (r"\{\sqrt{4}, 3\}", "3, 2"),
    (r"(\sqrt{4}, x+1)", "(2, 1+x)"),
    (r"(-\infty, \sqrt{9}]", r"(-\infty,3]"),
    (r"\begin{pmatrix}\sqrt{4}&1\end{pmatrix}", r"\begin{bmatrix}2&1\end{bmatrix}"),
    (r"\frac{-1\pm\sqrt{5}}{2}", r"\frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}"),
]
UNEQUAL = [
    (r"\sqrt{2}", "1.414"),
    (r"\sqrt{2}", "1.41421356237309504880168872420969807856967"),
    (r"\frac{\sqrt2}{2}", "0.7071067811865476"),
    (r"\pi", "3.14159265358979"),
    (r"\pi", r"\frac{22}{7}"),
    ("e", "2.718281828"),
    (r"\sqrt{2} \cdot 10^{-20}", r"\sqrt{3} \cdot 10^{-20}"),
    (r"\sqrt{4}", "-2"),
    ("X", "x"),
    ("2X+1", "2x+1"),
    ("E", "e"),
    ("x", r"\sqrt{x^2}"),
    ("3x+2", "3y+2"),
    ("a_1", "a_2"),
    ("f(x)", "f(y)"),
    ("f(x)", "g(x)"),
    (r"\log x", r"\ln x"),
    (r"\sin^{-1}(x)", r"\frac{1}{\sin x}"),
    (r"\sin 2x", r"2\sin x"),
    ("5-7", "-2"),
    (r"x^2+1=0", "x^2+2=0"),
    ("x+y=1", "x+y=2"),
    ("2x > 4", "2x < 4"),
    ("-2x > 4", "2x > 4"),
    ("x > 2y", r"x \ge 2y"),
    ("(x, 1)", "(1, x)"),
    (r"(2,1)", r"(3,1)"),
    (r"\{x, y\}", "(x, y)"),
    (r"\{x, x+1\}", r"\{x, x\}"),
    (r"25\pi \text{ cm}", r"25\pi \text{ m}"),
    (r"\infty", r"-\infty"),
    ("3+4i", "3-4i"),
    ("abc", "a+b+c"),
    ("(2)(6)+x", "8+x"),
    ("(1)(4)-y", "5-y"),
    (r"\sin(x)y", r"\sin(xy)"),
    ("|x|+|y|", "|x+y|"),
]


def test_expressions_that_are_equal_and_that_are_not_in_both_directions() -> None:
    async def work(checker: Checker) -> list[tuple[str, str, bool]]:
        wrong = []
        for (a, b), same in [*((pair, True) for pair in EQUAL), *((pair, False) for pair in UNEQUAL)]:
            wrong += [pair for pair in ((a, b), (b, a)) if await checker.same(*pair, "math") != same]
        return [(a, b, (a, b) in EQUAL) for a, b in wrong]

    assert not with_checker(work, deadline_s=30)


HOSTILE = [
    "9^{9^{9^9}}",
    "9^{9^{9^{9^{9^{9}}}}}",
    r"\sqrt{" * 20 + "x" + "}" * 20,
    "(" * 24 + "x" + ")" * 24,
    "{" * 5000 + "x" + "}" * 5000,
    r"\frac{1}{" * 24 + "x" + "}" * 24,
    "(x+y+1)^{99999999}",
    r"\binom{999999999}{333333333}",
    "99999999!",
    "((9!)!)!",
    r"\sin(" * 20 + "x" + ")" * 20,
    "+".join(f"x^{{{n}}}" for n in range(60)),
    "*".join("(x+y)" for _ in range(60)),
    r"\begin{pmatrix}" + r"1&x\\" * 40 + r"\end{pmatrix}",
    r"\begin{pmatrix}" + "&".join("x" * 1 for _ in range(100_000)) + r"\end{pmatrix}",
    ", ".join(f"x+{n}" for n in range(50)),
    "x" * 1_000_000,
    "9" * 1_000_000,
    r"\frac{1}{2}" * 100_000,
    "x^" * 200 + "x",
    r"\input{/etc/passwd}",
    "__import__('os').abort()",
    "x = __import__('os').system('true')",
    "\x00",
    "\ud800",
    "x\n\n" * 50,
    '{"do": "same"}',
    r"e^{e^{e^{e^{e^{99}}}}}",
    r"\log_{1} 5",
    r"\frac{x}{0}",
    "0^{-1}",
    r"\infty - \infty",
    r"0 \cdot \infty",
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:24].encode("unicode_escape").decode() for text in HOSTILE])
def test_hostile_texts_neither_hang_nor_crash_and_the_next_check_works(text: str) -> None:
    async def work(checker: Checker) -> None:
        await checker.same("x+1", "1+x", "math")
        for other in ("2^{10}", "7"):
            started = time.monotonic()
            same = await checker.same(text, other, "math")
            assert time.monotonic() - started < 1.0 + 20, "starting a child on a busy machine included"
            assert not same
            assert not await checker.same(other, text, "math")
        assert await checker.same(r"\sqrt{8}", r"2\sqrt{2}", "math")

    with_checker(work, deadline_s=1.0)


def test_what_is_not_decided_in_time_is_told() -> None:
    async def work(checker: Checker) -> tuple[bool, str]:
        checked = await checker.check(question("math", "1"), "9^{9^{9^9}}", "1")
        started = time.monotonic()
        assert await checker.check(question("math", "1"), "9^{9^{9^9}}", "1") == checked
        assert time.monotonic() - started < 0.5, "remembered"
        return checked.right, checked.how

    assert with_checker(work, deadline_s=0.5) == (False, "not decided in 0.5 s")


def test_numbers_letters_and_words_start_no_child() -> None:
    async def work(checker: Checker) -> list[int]:
        assert await checker.same("1/2", "50%", "math")
        assert await checker.same("(b)", "B", "choice")
        assert await checker.same("Paris", "paris", "span")
        assert await checker.groups([str(n % 7) for n in range(50)], "math") == [n % 7 for n in range(50)]
        assert not await checker.same("12 or 15", "12", "math")
        return checker.algebra.pids

    assert with_checker(work) == []


def test_a_killed_child_is_replaced() -> None:
    async def work(checker: Checker) -> None:
        assert await checker.same("x+1", "1+x", "math")
        (pid,) = checker.algebra.pids
        os.kill(pid, signal.SIGKILL)
        assert await checker.same("x+2", "2+x", "math")
        (other,) = checker.algebra.pids
        assert other != pid

    with_checker(work)


def test_a_child_killed_in_the_middle_of_its_work_is_told_and_replaced() -> None:
    async def work(checker: Checker) -> None:
        assert await checker.same("x+1", "1+x", "math")
        (pid,) = checker.algebra.pids
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(checker.check(question("math", "1"), "9^{9^{9^9}}", "1"))
            await until_it_works_hard(pid)
            os.kill(pid, signal.SIGKILL)
        checked = checking.result()
        assert not checked.right
        assert checked.how == "the process that was to decide died"
        assert await checker.same("x+2", "2+x", "math")

    with_checker(work, deadline_s=60)


def ticks(pid: int) -> int:
    """Processor time that a process has had."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


async def until_it_works_hard(pid: int) -> None:
    """Until it has had a fifth of a second more, which no answer to an easy question takes."""
    before = ticks(pid)
    async with asyncio.timeout(60):
        while ticks(pid) < before + os.sysconf("SC_CLK_TCK") // 5:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def test_no_child_outlives_a_cancelled_check() -> None:
    pids: list[int] = []
    begun = asyncio.Event()

    async def run() -> None:
        async with open_checker(deadline_s=60) as checker:
            assert await checker.same("x+1", "1+x", "math")
            pids.extend(checker.algebra.pids)
            begun.set()
            await checker.same("9^{9^{9^9}}", "1", "math")

    async def cancelled() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(run())
            await begun.wait()
            await until_it_works_hard(pids[0])
            running.cancel()

    asyncio.run(cancelled())
    assert pids
    assert not [pid for pid in pids if alive(pid)]


def test_a_child_ends_by_itself_when_nobody_listens_to_it_any_more() -> None:
    async def work() -> bool:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator.answers.symbolic", "0.5"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin
        assert child.stdout
        assert await child.stdout.readline()
        child.stdin.write(b'{"do": "same", "a": "9^{9^{9^9}}", "b": "1", "up_to": "nothing"}\n')
        await child.stdin.drain()
        async with asyncio.timeout(60):
            return await child.wait() == -signal.SIGALRM

    assert asyncio.run(work())


def fuzzed(count: int) -> Iterator[str]:
    """Strings of what expressions are made of, and of anything."""
    chance = random.Random(0)
    pieces = [
        *"0123456789xyzabceinIEX+-*/^_(){}[]|!,.=<>&%$ \\",
        r"\frac{",
        r"\sqrt{",
        r"\pi",
        r"\cdot ",
        r"\sin ",
        r"\ln(",
        "}",
        ")",
    ]
    pieces += [r"\infty", r"\pm ", r"\cup ", r"\{", r"\}", r"\le ", "^{", "_{", "sqrt(", "2", "x", "x", "1"]
    for number in range(count):
        if number % 5 == 0:
            yield "".join(map(chr, chance.choices(range(1, 0x2FFF), k=chance.randint(1, 30))))
        else:
            yield "".join(chance.choices(pieces, k=chance.randint(1, 14)))


@pytest.mark.slow
def test_a_thousand_fuzzed_strings_within_their_deadline_and_the_same_both_ways() -> None:
    async def work(checker: Checker) -> float:
        slowest = 0.0
        for a, b in itertools.pairwise([*fuzzed(1000), "x"]):
            started = time.monotonic()
            there = await checker.same(a, b, "math")
            slowest = max(slowest, time.monotonic() - started)
            assert there == await checker.same(b, a, "math")
            assert await checker.same(a, a, "math") is (read_form(a, "math") is not None)
        return slowest

    assert with_checker(work, deadline_s=2) < 2 + 20, "a child that missed a deadline is started anew by the next check"


GROUPED = [
    *[
        "3",
        "3.0",
        "6/2",
        r"\sqrt{9}",
        "3 apples",
        "50%",
        "0.5",
        "1/2",
        "5",
        "5 hours",
        "x+1",
        "1+x",
        "x+2",
        "(1, 2)",
        "(1,2)",
        "(2, 1)",
    ],
    *[
        r"2\sqrt2",
        r"\sqrt8",
        "x > 2",
        "2 < x",
        "hello",
        "hello",
        "x^2-1",
        "(x-1)(x+1)",
        "2x=4",
        "4x=8",
        r"\{1, x\}",
        "x, 1",
        "",
        "12 or 15",
    ],
]


def test_groups_do_not_depend_on_the_order() -> None:
    async def work(checker: Checker) -> None:
        wanted = await partition(checker, GROUPED)
        chance = random.Random(1)
        for _ in range(5):
            shuffled = chance.sample(GROUPED, len(GROUPED))
            assert await partition(checker, shuffled) == wanted
        assert frozenset({"3", "3.0", "6/2", r"\sqrt{9}", "3 apples"}) in wanted
        assert frozenset({"50%", "0.5", "1/2"}) in wanted
        assert frozenset({"x+1", "1+x"}) in wanted
        assert frozenset({"2x=4", "4x=8"}) in wanted
        assert frozenset({"(2, 1)"}) in wanted

    with_checker(work, deadline_s=30)


async def partition(checker: Checker, answers: list[str]) -> set[frozenset[str]]:
    """The groups as sets."""
    numbers = await checker.groups(answers, "math")
    return {frozenset(a for a, n in zip(answers, numbers, strict=True) if n == number) for number in set(numbers)}


def test_a_bare_number_joins_the_unit_that_most_gave_and_units_stay_apart() -> None:
    async def work(checker: Checker) -> list[list[int]]:
        return [
            await checker.groups(["3", "3 hours", "3 minutes", "3 hours"], "math"),
            await checker.groups(["50", "50%", "0.5", "50%", "50"], "math"),
            await checker.groups(["A", "(a)", "B", "?", "?"], "choice", ("red", "blue")),
            await checker.groups([], "math"),
        ]

    assert with_checker(work) == [[0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 2, 3], []]


def test_two_hundred_numbers_are_grouped_at_once() -> None:
    async def work(checker: Checker) -> float:
        answers = [f"{n % 150}{('', ' apples', '.0', '/1')[n % 4]}" for n in range(200)]
        started = time.perf_counter()
        assert len(set(await checker.groups(answers, "math"))) == 150
        return time.perf_counter() - started

    assert with_checker(work) < 1


def test_many_equal_expressions_cost_one_comparison_each() -> None:
    async def work(checker: Checker) -> list[int]:
        answers = [f"x^2 + {n}x - {n}x + {n % 3}" for n in range(2, 32)]
        return await checker.groups(answers, "math")

    groups = with_checker(work, deadline_s=30)
    assert groups == [n % 3 for n in range(30)]


CHECKED = [
    (question("math", "0.5"), "50%", "0.5", (True, "answer check", None)),
    (question("math", "2"), r"\sqrt{4}", "2", (True, "symbolic equality", None)),
    (question("math", "2"), r"\sqrt{5}", "2", (False, "symbolic equality", None)),
    (question("math", "2", "two", "3"), "3", "2", (True, "one of the question's other answers", None)),
    (question("math", "2", "3"), "3", "4", (False, "answer check", None)),
    (question("math", None, "3"), "3", "4", (False, "answer check", None)),
    (question("span", "Barack Obama"), "barack obama", "Barack Obama", (True, "answer check", 1.0)),
    (question("span", "Obama"), "Barack Obama", "Obama", (False, "F1 0.67", 2 / 3)),
    (question("span", "x", "The president"), "president", "x", (True, "one of the question's other answers", 1.0)),
    (question("span", "man bites dog"), "dog bites man", "man bites dog", (False, "F1 1.00", 1.0)),
    (question("open", "It rains."), "Rain.", "It rains.", (False, "only a judge can tell", None)),
]


@pytest.mark.parametrize(("asked", "answer", "target", "checked"), CHECKED)
def test_what_decided_is_told(asked: Question, answer: str, target: str, checked: tuple[bool, str, float | None]) -> None:
    assert with_checker(lambda checker: checker.check(asked, answer, target)) == pytest.approx(checked)


def test_spans_may_be_right_by_their_overlap_but_never_with_other_numbers() -> None:
    async def work(checker: Checker) -> list[bool]:
        asked = question("span", "in May 1937", "Spring")
        answers = ["May 1937", "in May 1938", "in the late spring", "it was not in May 1937", ""]
        return [(await checker.check(asked, answer, "in May 1937", span_f1=0.6)).right for answer in answers]

    assert with_checker(work) == [True, False, False, False, False]
