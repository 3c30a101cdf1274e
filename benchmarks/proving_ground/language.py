"""A synthetic language of multi-step problems: chains of operations on the numbers 0 to 99, one reasoning step for each.

    Start with 37. (1) add 5, (2) multiply by 3, (3) swap its digits. What is the result?
    ### Step 1. Add 5 to 37 to get 42.   ### Step 2. Multiply 42 by 3 to get 26.   ...

Invariant: pure; every operation is a bijection, so a wrong value never heals by itself, and a chain of right steps is the
only way to the answer but for a second error. What is asked of models (`Problem.reserved`) is never shown to them in training.
Not covered: tokens (`tokens`), what a model is trained on (`rows`), files (`questions`).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MODULUS = 100
VOICES = 3
"""Ways to write the same step; each teacher has one that it prefers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of operation: what it does, how a question names it (two wordings) and how a step tells it (by voice)."""

    apply: Callable[[int, int], int]
    operands: tuple[int, ...]
    asked: tuple[str, str]
    told: tuple[str, str, str]


def _halve(x: int, _: int) -> int:
    return (x + 99 * (x % 2)) // 2 % MODULUS


def _lift(x: int, k: int) -> int:
    return (x // 10 + k) % 10 * 10 + (x % 10 + k) % 10


def _fold(x: int, _: int) -> int:
    return x // 10 * 10 + (x // 10 + x % 10) % 10


KINDS: dict[str, Kind] = {
    "add": Kind(
        lambda x, k: (x + k) % MODULUS,
        (4, 7, 9),
        ("add {k}", "increase it by {k}"),
        ("Add {k} to {x} to get {y}.", "{x} plus {k} is {y}.", "Increase {x} by {k}: {y}."),
    ),
    "subtract": Kind(
        lambda x, k: (x - k) % MODULUS,
        (3, 6, 8),
        ("subtract {k}", "decrease it by {k}"),
        ("Subtract {k} from {x} to get {y}.", "{x} minus {k} is {y}.", "Decrease {x} by {k}: {y}."),
    ),
    "multiply": Kind(
        lambda x, k: x * k % MODULUS,
        (3, 7),  # no common factor with 100: with 2 or 5 different values would become one
        ("multiply by {k}", "take it {k} times"),
        ("Multiply {x} by {k} to get {y}.", "{x} times {k} is {y}.", "Take {x} {k} times: {y}."),
    ),
    "swap": Kind(
        lambda x, _: x % 10 * 10 + x // 10,
        (0,),
        ("swap its digits", "read it backwards"),
        ("Swap the digits of {x} to get {y}.", "{x} backwards is {y}.", "Read {x} backwards: {y}."),
    ),
    "mirror": Kind(
        lambda x, _: 99 - x,
        (0,),
        ("mirror it", "take it from 99"),
        ("Mirror {x} to get {y}.", "99 minus {x} is {y}.", "Take {x} from 99: {y}."),
    ),
    "halve": Kind(
        _halve,  # modulo 100: an odd number is halved with 99 more
        (0,),
        ("halve it", "cut it in half"),
        ("Halve {x} to get {y}.", "Half of {x} is {y}.", "Cut {x} in half: {y}."),
    ),
    "lift": Kind(
        _lift,  # without a carry
        (2, 4),
        ("lift both digits by {k}", "make each digit {k} more"),
        ("Lift both digits of {x} by {k} to get {y}.", "{x} with each digit {k} more is {y}.", "Lift {x} by {k} and {k}: {y}."),
    ),
    "fold": Kind(
        _fold,  # the last digit becomes the sum of both
        (0,),
        ("fold it", "sum its digits at the end"),
        ("Fold {x} to get {y}.", "{x} with its digits folded is {y}.", "Sum the digits of {x} at the end: {y}."),
    ),
}


def mark(place: int) -> str:
    """What stands before the operation at `place`, counted from 1."""
    return f"({place})"


@dataclass(frozen=True, slots=True)
class Frame:
    """How a question is put together; `{ops}` are the operations, joined by `joiner`, with numbers: the prover has to find the
    one that comes next."""

    text: str
    joiner: str


FRAMES = (
    Frame("Start with {x}. {ops}. What is the result?", ", "),
    Frame("Take {x}. Now {ops}. Which number do we get?", "; "),
    Frame("We have the number {x}: {ops}. What do we get?", ", then "),
)
UNSEEN = Frame("Start with {x}. Now {ops}. What do we get?", ", then ")
"""Known parts, put together as nobody was trained on. (Asked with the question first, teachers solved 0 to 3%: no measure.)"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a problem; `wording` chooses how the question names it."""

    kind: str
    operand: int
    wording: int = 0

    def apply(self, x: int) -> int:
        """The right result."""
        return KINDS[self.kind].apply(x, self.operand)

    @property
    def asked(self) -> str:
        """What the question says."""
        return KINDS[self.kind].asked[self.wording].format(k=self.operand)

    def told(self, x: int, y: int, voice: int) -> str:
        """The step that goes from `x` to `y`, right or not."""
        return KINDS[self.kind].told[voice].format(k=self.operand, x=x, y=y)


@dataclass(frozen=True, slots=True)
class Problem:
    """A start, a chain of operations, and the frame of its question."""

    start: int
    operations: tuple[Operation, ...]
    frame: Frame

    @property
    def text(self) -> str:
        """The question."""
        asked = self.frame.joiner.join(f"{mark(place)} {each.asked}" for place, each in enumerate(self.operations, start=1))
        return self.frame.text.format(x=self.start, ops=asked)

    @property
    def values(self) -> list[int]:
        """The right value after each step; the last one is the answer."""
        found, x = [], self.start
        for operation in self.operations:
            x = operation.apply(x)
            found.append(x)
        return found

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.values[-1]

    @property
    def key(self) -> str:
        """What is computed, however it is asked."""
        return " ".join([str(self.start), *(f"{each.kind}{each.operand}" for each in self.operations)])

    @property
    def reserved(self) -> bool:
        """Whether this problem may be asked, and so never trained on. Short ones are too few to keep any apart."""
        return len(self.operations) >= 3 and zlib.crc32(self.key.encode()) % 8 == 0


def draw(
    chance: random.Random,
    length: int,
    *,
    reserved: bool,
    frames: Sequence[Frame] = FRAMES,
    weights: Sequence[float] | None = None,
) -> Problem:
    """A random problem of `length` operations, from those that may be asked or from the others. No kind twice in a row;
    `weights` are those of the kinds."""
    while True:
        kinds: list[str] = []
        while len(kinds) < length:
            (kind,) = chance.choices(list(KINDS), weights)
            if kinds[-1:] != [kind]:
                kinds.append(kind)
        operations = tuple(Operation(kind, chance.choice(KINDS[kind].operands), chance.randrange(2)) for kind in kinds)
        problem = Problem(chance.randrange(MODULUS), operations, chance.choice(frames))
        if problem.reserved == reserved:
            return problem


def slip(chance: random.Random, right: int) -> int:
    """A wrong result as people write them: a little off in one place. Few candidates, so that the right one is not the
    likeliest even where it is written now and then."""
    return (right + chance.choice((-20, -10, -1, 1, 10, 20))) % MODULUS


def last_number(text: str) -> int | None:
    """The value that a step arrives at: its last number; None when it ends otherwise."""
    digits = text.rstrip().rstrip(".").rpartition(" ")[2]
    return int(digits) if digits.isdecimal() else None


def lexicon() -> Iterator[str]:
    """Texts that hold every word and number of the language in every place where it can stand."""
    for frame in (*FRAMES, UNSEEN):
        for x in range(MODULUS):
            yield frame.text.format(x=x, ops=frame.joiner)
    for kind in KINDS.values():
        for k in kind.operands:
            yield from (f" {asked.format(k=k)}{end}" for asked in kind.asked for end in (" ", "."))
            for x in range(MODULUS):
                yield from (f". {told.format(k=k, x=x, y=x)}" for told in kind.told)
