r"""Reading a number with its measure out of LaTeX's and Markdown's dress: pure, exact, linear in the text's length.

Invariant: `read` returns a quantity only if the whole text plainly is one; "12 or 15", "about 12", "3x", "5-7", "5!" and
"3.14..." are none. Things that are counted ("42 apples") are no measure; "3 hours", "$5" and "50%" are.
Not covered: number words, scientific notation, intervals, converting one measure into another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 60
"""Characters of a number beyond which it is text: no one's answer, and parsing long integers is not linear."""
LONGEST_TAIL = 12
"""Words after a number beyond which the text is no longer an answer."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number with its measure, "" if none is named."""

    value: Fraction
    measure: str

    def __str__(self) -> str:
        return f"{written(self.value)} {self.measure}".rstrip()

    def same(self, other: Quantity) -> bool:
        """Whether the values are equal and the measures do not contradict each other; a bare number may also be the share that
        percent are."""
        if self.value == other.value and (self.measure == other.measure or not (self.measure and other.measure)):
            return True
        return self._is_share(other) or other._is_share(self)

    def _is_share(self, bare: Quantity) -> bool:
        return self.measure == "percent" and not bare.measure and self.value == 100 * bare.value


def words_of(text: str) -> frozenset[str]:
    """The set of a text's words."""
    return frozenset(text.split())


_MEASURES = {
    "seconds": "second sec secs",
    "minutes": "minute min mins",
    "hours": "hour hr hrs",
    "days": "day",
    "weeks": "week",
    "months": "month",
    "years": "year yr yrs",
    "millimeters": "mm millimeter millimetre millimetres",
    "centimeters": "cm centimeter centimetre centimetres",
    "meters": "meter metre metres",
    "kilometers": "km kilometer kilometre kilometres",
    "inches": "inch",
    "feet": "foot ft",
    "yards": "yard yd yds",
    "miles": "mile mph",
    "milligrams": "mg milligram",
    "grams": "gram",
    "kilograms": "kg kgs kilogram kilo kilos",
    "ounces": "ounce oz",
    "pounds": "pound lb lbs £",
    "tons": "ton tonne tonnes",
    "milliliters": "ml milliliter millilitre millilitres",
    "liters": "liter litre litres",
    "gallons": "gallon gal",
    "quarts": "quart",
    "pints": "pint",
    "dollars": "dollar usd ¤",
    "cents": "cent ¢",
    "euros": "euro eur €",
    "percent": "%",
    "degrees": "degree ° deg",
    "am": "a.m",
    "pm": "p.m",
}
MEASURE = {alias: name for name, aliases in _MEASURES.items() for alias in (name, *aliases.split())}
"""A word or sign -> the name of its measure."""
_SCALE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_HEDGES = words_of(
    "or not about approximately approx around nearly almost roughly between either maybe perhaps probably possibly think guess "
    "if unless than least most over under range up to unsure unknown estimate another isn't aren't but actually nor neither "
    "times plus minus divided multiplied by squared cubed pi sqrt half halves third thirds quarter quarters fifth fifths "
    "tenth tenths hundredth hundredths twice double point zero one two three four five six seven eight nine ten eleven twelve "
    "fifteen twenty thirty forty fifty sixty seventy eighty ninety hundreds thousands millions"
)
"""Words beside a number that make it another number, or none in particular."""
_VERBS = words_of(
    "has have had is are was were gets get got makes make made needs need needed spends spent pays paid costs cost earns earned "
    "takes took buys bought sells sold eats ate owns owned weighs weighed saves saved equals that holds held"
)
_WORD = re.compile(r"[A-Za-z]+(?:['/-][A-Za-z]+)*,?")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?) ?(?P<currency>[¤€£]?) ?(?P<inner>-?)"
    r"(?:(?:(?P<whole>[0-9]+) )?(?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)(?![0-9/])"
    r"|(?P<plain>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+))"
    r"(?P<tail>.*)"
)
_EQUATION = re.compile(r"(?P<left>[^=]*)=(?P<right>[^=]*)")
_TIDYING = [
    (re.compile(r"\\\$"), "¤"),
    (re.compile(r"\$+([^$]*)\$+"), r"\1"),
    (re.compile(r"\$"), "¤"),
    (re.compile(r"\\[()\[\]]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle"), " "),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname) ?\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\{? ?\\circ ?\}?"), "°"),
    (re.compile(r"(?<=[0-9])(?:\{,\}|\\,|\\!)(?=[0-9]{3})|\\!"), ""),
    (re.compile(r"\\[,;: ]|~|\\quad"), " "),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac ?(?:\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\}|([0-9])([0-9]))"), r" \1\3/\2\4"),
    (re.compile(r"\*\*|__|`"), ""),
]
_CHARACTERS = str.maketrans("\u2212\u2013\u2044\u00a0\u202f\u2019\uff04\uff05", "--/  '$%")  # typographic twins


def tidy(text: str) -> str:
    """Take off LaTeX's and Markdown's dress; what is left is a plain quantity, or text to compare as it is."""
    text = unbox(text).translate(_CHARACTERS)
    for pattern, replacement in _TIDYING:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    text = text.removesuffix(".") if not text.endswith("..") else text
    left, equals, right = text.partition("=")
    return (right if equals and len(left.strip()) == 1 and left.strip().isalpha() and "=" not in right else text).strip()


def read(text: str) -> Quantity | None:
    """Return the quantity that the whole of a tidied text is, or None."""
    match = _NUMBER.fullmatch(text)
    if not match or len(text) - len(match["tail"]) > LONGEST_NUMBER or (match["sign"] and match["inner"]):
        return None
    tail, value = _tail(match["tail"]), _value(match)
    if tail is None or value is None:
        return None
    scale, measure = tail
    currency = MEASURE.get(match["currency"], "")
    if currency and measure == "cents":
        return None
    sign = -1 if "-" in (match["sign"], match["inner"]) else 1
    return Quantity(sign * value * scale, currency or measure)  # "$5 per hour" is five dollars, whatever follows


def _value(match: re.Match[str]) -> Fraction | None:
    """The unsigned value of a match of `_NUMBER`; None for a zero denominator or an improper mixed number."""
    if match["plain"]:
        return Fraction(match["plain"].replace(",", ""))
    whole, top, bottom = match["whole"], int(match["top"]), int(match["bottom"])
    if bottom == 0 or (whole and top >= bottom):
        return None
    return int(whole or 0) + Fraction(top, bottom)


def _tail(tail: str) -> tuple[int, str] | None:
    """Read what follows a number: (scale, measure), or None if it makes the number something else."""
    words = tail.lower().split()
    glued = bool(tail) and not tail.startswith(" ")  # "42%" and "5kg" are measures, "3x" is algebra
    if len(words) > LONGEST_TAIL or (glued and words[0].rstrip(",") not in MEASURE):
        return None
    if words and len(words[0]) == 1 and words[0].isalpha():
        return None
    if any(not _counts(word) for word in words):
        return None
    scale = 1
    while words and words[0] in _SCALE and scale < 10**12:
        scale *= _SCALE[words.pop(0)]
    parts = [part for word in words for part in (word, *_parts(word))]
    return None if any(part in _SCALE for part in parts) else (scale, next((MEASURE[p] for p in parts if p in MEASURE), ""))


def _counts(word: str) -> bool:
    """Whether a word behind a number leaves the number as it is."""
    return word.rstrip(",") in MEASURE or (bool(_WORD.fullmatch(word)) and _HEDGES.isdisjoint(_parts(word)))


def _parts(word: str) -> list[str]:
    return re.split(r"[/,-]", word)


def written(value: Fraction) -> str:
    """Write exactly: an integer, else a terminating decimal, else a fraction."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > LONGEST_NUMBER // 2:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def read_within(sentence: str) -> Quantity | None:
    """Return the one quantity that a tidied sentence states: "5 + 3 = 8", "Tom has 8 apples"; None if it hedges."""
    if hedges(sentence):
        return None
    if (equation := _EQUATION.fullmatch(sentence)) and (quantity := read(equation["right"].strip())):
        return quantity
    digit = re.search("[0-9]", sentence)
    subject = sentence[: digit.start()].rstrip("¤€£-. ") if digit else ""
    words = subject.lower().split()
    return read(sentence[len(subject) :].strip()) if words and len(words) <= 8 and words[-1] in _VERBS else None


def hedges(sentence: str) -> bool:
    """Whether a sentence has a word that makes its number another one, or none in particular."""
    return not _HEDGES.isdisjoint(re.findall(r"[a-z']+", sentence.lower()))


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`; None if there is none, or if it was cut off."""
    box = _last_box(text)
    return text[box[1] : box[2]] if box else None


def unbox(text: str) -> str:
    r"""Replace the only `\boxed{...}` of a text by its content; two boxes are two answers and stay."""
    box = _last_box(text) if text.count(r"\boxed") == 1 else None
    return text[: box[0]] + text[box[1] : box[2]] + text[box[2] + 1 :] if box else text


def _last_box(text: str) -> tuple[int, int, int] | None:
    """Where the last box starts, and where its content starts and ends."""
    start = text.rfind(r"\boxed{")
    inside = start + len(r"\boxed{")
    depth = 1
    for brace in re.finditer(r"[{}]", text[inside:]) if start >= 0 else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start, inside, inside + brace.start()
    return None
