"""The English of the word problems: themes, each with its openings and with what can happen in it.

Invariant: every clause reads well after every other one of its theme, whatever the numbers from 2 upwards: things are named,
never "them" (bags or apples?), and a friend is never of the subject's gender, so that "he" and "she" are clear.
Placeholders: {name} {he} {him} {his} the subject, {friend} someone else, {objs} the things, {box} {boxes} what holds them,
{a} {b} numbers of an opening, {n} the number of an event, {times} "twice" or "3 times", {now} " has now" once things changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["+", "-", "*", "/"]


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split())


HE = _listed(
    "Tom Ben Sam Leo Max Omar Ivan Luis Noah Eric Paul Adam Jack Ravi Hugo Karl Theo Marco Felix Daniel Peter Yusuf Kenji David"
)
SHE = _listed(
    "Anna Mia Sara Lily Emma Nora Ruth Zoe Ella Lena Maya Ines Rosa Jane Amy Kate Clara Fatima Julia Priya Olga Yuki Helen Grace"
)


@dataclass(frozen=True, slots=True)
class Happening:
    """One operation in words. With a `question` it can only come last; a `state` is no action, so nothing comes "then"."""

    operation: Operation
    clause: str
    question: str = ""
    state: bool = False
    switches: bool = False
    """The friend is the subject from here on."""
    only: int | None = None
    """The only number it can be told of, such as 2 for a half."""


@dataclass(frozen=True, slots=True)
class Theme:
    """A little world: how a problem opens (with a number, or with a product), what can happen, what can be asked at the end."""

    name: str
    openings: tuple[str, ...]
    products: tuple[str, ...]
    happenings: tuple[Happening, ...]
    asked: tuple[str, ...]
    """Questions after a change."""
    left: tuple[str, ...]
    """Questions after something was taken away."""
    plain: str
    """The question after a comparison."""
    total: str
    """The question after nothing but a product."""
    things: tuple[str, ...] = ("",)
    boxes: tuple[tuple[str, str], ...] = (("", ""),)


def _all(operation: Operation, *clauses: str) -> tuple[Happening, ...]:
    return tuple(Happening(operation, clause) for clause in clauses)


_POSSESSION = (
    Happening("+", "{friend} has {n} more {objs} than {name}{now}", state=True, switches=True),
    Happening("-", "{friend} has {n} fewer {objs} than {name}{now}", state=True, switches=True),
    Happening("*", "{friend} has {times} as many {objs} as {name}{now}", state=True, switches=True),
    Happening("+", "{friend} has {n} {objs}", "How many {objs} do {name} and {friend} have together?", state=True),
    Happening("-", "{friend} has {n} {objs}", "How many more {objs} does {name} have than {friend}?", state=True),
    Happening("*", "{he} sells all {his} {objs} for {n} dollars each", "How many dollars does {he} get?"),
    Happening("*", "each of {name}'s {objs} is worth {n} dollars", "How many dollars are all the {objs} worth?", state=True),
    Happening("/", "{he} shares all {his} {objs} equally among {n} friends", "How many {objs} does each friend get?"),
    Happening(
        "/", "{he} puts all {his} {objs} into {n} {boxes}, with the same number in each", "How many {objs} are in each {box}?"
    ),
    Happening("/", "{he} packs all {his} {objs} into {boxes}, with {n} {objs} in each {box}", "How many {boxes} does {he} need?"),
    Happening("/", "{he} divides {his} {objs} into {n} equal piles and keeps only one pile"),
    Happening("/", "{he} gives half of {his} {objs} to {friend}", only=2),
    *_all("+", "{friend} gives {him} {n} more {objs}", "{he} gets {n} more {objs} from {his} aunt"),
    *_all("-", "{he} gives {n} {objs} to {friend}", "{he} sells {n} {objs} to {friend}", "{friend} takes {n} of the {objs}"),
)
_IN_BOXES = (
    "{name} has {a} {boxes} with {b} {objs} in each {box}",
    "{name} has {a} {boxes}, and each {box} holds {b} {objs}",
    "{name} fills {a} {boxes} with {b} {objs} each",
)


def _owned(name: str, *, openings: tuple[str, ...], events: tuple[Happening, ...], boxes: str, things: str) -> Theme:
    pairs = [pair.split("/") for pair in boxes.split(", ")]
    return Theme(
        name=name,
        openings=("{name} has {a} {objs}", "{name} starts the week with {a} {objs}", *openings),
        products=_IN_BOXES,
        happenings=_POSSESSION + events,
        asked=("How many {objs} does {name} have now?", "How many {objs} does {he} have in the end?"),
        left=("How many {objs} does {name} have left?", "How many {objs} does {he} still have?"),
        plain="How many {objs} does {name} have?",
        total="How many {objs} does {name} have in all?",
        things=tuple(things.split(", ")),
        boxes=tuple((pair[0], pair[1]) for pair in pairs),
    )


def _group(name: str, *, openings: tuple[str, ...], product: str, events: tuple[Happening, ...], asked: str, left: str) -> Theme:
    return Theme(
        name=name,
        openings=openings,
        products=(product,),
        happenings=events,
        asked=(asked,),
        left=(asked, left),
        plain=asked,
        total=f"How many {name} are there in all?",
    )


_FOOD = _owned(
    "food",
    openings=("{name} buys {a} {objs} at the market", "There are {a} {objs} in {name}'s kitchen"),
    events=(
        *_all("+", "{he} buys {n} more {objs} at the market", "{he} brings home {n} more {objs}"),
        *_all("-", "{he} eats {n} {objs}", "{his} family eats {n} {objs}", "{he} uses {n} {objs} for a party"),
    ),
    boxes="bag/bags, basket/baskets, box/boxes",
    things="apples, oranges, cookies, muffins, peaches, pears, plums, cupcakes, lemons, bananas, cherries, walnuts, tomatoes",
)
_TOYS = _owned(
    "toys",
    openings=("{name} has collected {a} {objs}", "{name} keeps {a} {objs} in a drawer"),
    events=(
        *_all("+", "{he} finds {n} more {objs}", "{he} wins {n} more {objs} in a game", "{he} buys {n} more {objs} at a fair"),
        *_all("-", "{he} loses {n} {objs}", "{he} trades {n} {objs} for a comic book", "{he} loses {n} {objs} on the way home"),
    ),
    boxes="bag/bags, box/boxes, jar/jars",
    things="marbles, stickers, stamps, shells, beads, buttons, trading cards, toy cars, coins, badges, key rings",
)
_SUPPLIES = _owned(
    "supplies",
    openings=("{name} packs {a} {objs} for school", "There are {a} {objs} on {name}'s desk"),
    events=(
        *_all("+", "{he} buys {n} more {objs} at the store", "{his} teacher gives {him} {n} more {objs}"),
        *_all("-", "{he} lends {n} {objs} to {friend}", "{he} uses up {n} {objs}", "{he} leaves {n} {objs} at school"),
    ),
    boxes="box/boxes, pack/packs, bag/bags",
    things="pencils, crayons, pens, erasers, notebooks, markers, paper clips, folders",
)
_FLOWERS = _owned(
    "flowers",
    openings=("{name} picks {a} {objs}", "{name} buys {a} {objs} from a florist"),
    events=(
        *_all("+", "{he} picks {n} more {objs} in the garden", "{he} buys {n} more {objs} from a florist"),
        *_all("-", "{he} gives {n} {objs} to {his} grandmother", "{he} throws away {n} {objs} that have wilted"),
    ),
    boxes="vase/vases, basket/baskets, bucket/buckets",
    things="roses, tulips, daisies, lilies, sunflowers, carnations",
)
_MONEY = Theme(
    name="money",
    openings=("{name} has {a} dollars", "{name} has saved {a} dollars", "There are {a} dollars in {name}'s wallet"),
    products=(
        "{name} works for {a} hours and earns {b} dollars an hour",
        "{name} saves {b} dollars a week for {a} weeks",
        "{name} sells {a} cakes for {b} dollars each",
    ),
    happenings=(
        *_all("+", "{he} earns {n} dollars by washing cars", "{friend} gives {him} {n} dollars"),
        *_all("+", "{his} grandfather gives {him} {n} dollars", "{he} finds {n} dollars in a coat"),
        *_all("-", "{he} spends {n} dollars on a game", "{he} pays {n} dollars for lunch", "{he} lends {n} dollars to {friend}"),
        *_all("-", "{he} buys a book for {n} dollars", "{he} spends {n} dollars at the store"),
        Happening("+", "{friend} has {n} dollars more than {name}{now}", state=True, switches=True),
        Happening("-", "{friend} has {n} dollars less than {name}{now}", state=True, switches=True),
        Happening("*", "{friend} has {times} as much money as {name}{now}", state=True, switches=True),
        Happening("+", "{friend} has {n} dollars", "How many dollars do {name} and {friend} have together?", state=True),
        Happening("-", "{friend} has {n} dollars", "How many more dollars does {name} have than {friend}?", state=True),
        Happening("/", "{he} spends all {his} money on pens that cost {n} dollars each", "How many pens does {he} buy?"),
        Happening(
            "/", "{he} spends all {his} money on {n} tickets that cost the same", "How many dollars does each ticket cost?"
        ),
        Happening("/", "{he} shares {his} money equally among {n} cousins", "How many dollars does each cousin get?"),
        Happening("/", "{he} gives half of {his} money to {friend}", only=2),
        Happening("/", "{he} divides {his} money into {n} equal parts and keeps only one part"),
    ),
    asked=("How many dollars does {name} have now?", "How many dollars does {he} have in the end?"),
    left=("How many dollars does {name} have left?", "How many dollars does {he} still have?"),
    plain="How many dollars does {name} have?",
    total="How many dollars is that in all?",
)
_GROUPS = (
    _group(
        "birds",
        openings=("There are {a} birds in a tree", "{a} birds are sitting in a tree"),
        product="A tree has {a} branches, and {b} birds are sitting on each branch",
        events=(
            *_all("+", "{n} more birds land in the tree", "{n} more birds come to the tree"),
            *_all("-", "{n} birds fly away", "a cat scares away {n} birds"),
            Happening("*", "each bird eats {n} seeds", "How many seeds do the birds eat in all?"),
            Happening("/", "the birds split into {n} equal flocks and fly off", "How many birds are in each flock?"),
        ),
        asked="How many birds are in the tree now?",
        left="How many birds are left in the tree?",
    ),
    _group(
        "children",
        openings=("There are {a} children at a playground", "{a} children are playing at a playground"),
        product="There are {a} benches at a playground, and {b} children are sitting on each bench",
        events=(
            *_all("+", "{n} more children come to play", "{n} more children arrive"),
            *_all("-", "{n} children go home", "{n} children leave for lunch"),
            Happening("*", "each child gets {n} balloons", "How many balloons do the children get in all?"),
            Happening("/", "the children form {n} teams of the same size", "How many children are on each team?"),
            Happening("/", "the children form teams of {n}", "How many teams are there?"),
        ),
        asked="How many children are at the playground now?",
        left="How many children are left at the playground?",
    ),
    _group(
        "passengers",
        openings=("There are {a} passengers on a bus", "A bus sets off with {a} passengers"),
        product="An empty bus stops {a} times, and {b} passengers get on at each stop",
        events=(
            *_all("+", "{n} more passengers get on", "{n} more passengers get on at the station"),
            *_all("-", "{n} passengers get off", "{n} passengers get off at the school"),
            Happening("*", "each passenger pays {n} dollars", "How many dollars do the passengers pay in all?"),
            Happening("*", "each passenger has {n} bags", "How many bags do the passengers have in all?", state=True),
        ),
        asked="How many passengers are on the bus now?",
        left="How many passengers are left on the bus?",
    ),
    _group(
        "cars",
        openings=("There are {a} cars in a parking lot", "A parking lot has {a} cars in it"),
        product="A parking lot has {a} rows, and there are {b} cars in each row",
        events=(
            *_all("+", "{n} more cars drive in", "{n} more cars park there"),
            *_all("-", "{n} cars drive away", "{n} cars leave"),
            Happening("*", "each car pays {n} dollars for parking", "How many dollars is that in all?"),
            Happening("/", "the cars move into {n} equal rows", "How many cars are in each row?"),
        ),
        asked="How many cars are in the parking lot now?",
        left="How many cars are left in the parking lot?",
    ),
    _group(
        "books",
        openings=("There are {a} books on a shelf", "A shelf in the library holds {a} books"),
        product="A bookcase has {a} shelves, and there are {b} books on each shelf",
        events=(
            *_all("+", "the librarian adds {n} more books", "readers bring back {n} books"),
            *_all("-", "readers borrow {n} of the books", "the librarian removes {n} old books"),
            Happening("/", "the librarian packs all the books into {n} equal boxes", "How many books are in each box?"),
            Happening("/", "the librarian packs all the books into boxes of {n}", "How many boxes are there?"),
        ),
        asked="How many books are there now?",
        left="How many books are left?",
    ),
    _group(
        "sheep",
        openings=("A farmer keeps {a} sheep", "A farmer has {a} sheep in a field"),
        product="A farmer has {a} barns, and there are {b} sheep in each barn",
        events=(
            *_all("+", "the farmer buys {n} more sheep", "a neighbor gives the farmer {n} sheep"),
            *_all("-", "the farmer sells {n} sheep", "{n} sheep run away"),
            Happening("*", "the farmer gets {n} pounds of wool from each sheep", "How many pounds of wool is that in all?"),
            Happening("/", "the farmer splits all the sheep evenly between {n} fields", "How many sheep are in each field?"),
        ),
        asked="How many sheep does the farmer have now?",
        left="How many sheep does the farmer have left?",
    ),
)
THEMES = (*2 * (_FOOD, _TOYS, _SUPPLIES, _FLOWERS, _MONEY), *_GROUPS)
"""All themes, as often as they are to be drawn."""
