# ruff: noqa: RUF001, SIM905
"""What is counted: "red apples" in "5 red apples", and words that are no counted thing.

Two nouns agree where their heads are the same in any number and one has all words of the other.
Some words change a number ("7 less", "7 pairs"): an answer may not add them to the gold answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from virgo_ray.verify.answers.unit_names import CHANGING_COUNTERS, COUNTERS
from virgo_ray.verify.answers.words import NUMBER_WORDS

MAX_WORDS = 8


@dataclass(frozen=True)
class Noun:
    """`words` in the singular, `head` the one that names the thing; no words for "units"."""

    words: tuple[str, ...] = ()
    head: str = ""
    is_changing: bool = False


# Words that go on after a number without being a unit: "5 or 6", "3 if x > 0".
NOT_UNITS = re.compile(
    r"(?:and|or|if|is|are|but|not|because|so|since|which|e|i|pi|am|pm|a\.m|p\.m|o'clock)(?![\w])",
    re.IGNORECASE,
)
_CHANGING = frozenset(
    "to times time fold by through until till choose noon inverted negated quintupled ish plus "
    "minus over under above below of mod modulo less more fewer fewest least most pair couple "
    "twin triple double dual trio duo squared cubed square cube root factorial doubled tripled "
    "quadrupled halved inverse reciprocal negative positive point percent percentage permille "
    "exponent power bar log th plus-minus multiplied divided added subtracted increased "
    "decreased reduced remainder rest modulus squares cubes hat prime oh ppm percentile basis "
    "lac lacs cr radical too at infinity before after against without except beyond within "
    "between than as like repeating recurring googol myriad each apiece versus vs out base "
    "halve twice thrice once another extra additional complement opposite conjugate tens ten's "
    "zillion score".split()
) | CHANGING_COUNTERS  # fmt: skip
# "septillion", "fiftieths", "quintuple", "tenfold", "rounded"
_CHANGING_FORM = re.compile(
    r"illions?$|illionths?$|[^w]ieths?$|upl(?:e|y)s?$|[iu]plets?$|fold$|.{3}ed$"
)
_CHANGING_BUT_USUAL = frozenset({"time", "each", "apiece", "out", "bar", "square", "cube", "th"})
_HEAD_ENDS = frozenset(
    "of left in for on at from with that who remaining away long wide tall high deep thick old "
    "apart total altogether overall together total. per each".split()
)
_FILLER = frozenset(
    "them these those it of in the a an long wide tall high deep thick old apart total "
    "altogether overall each all length width height depth apiece".split()
)
# No counted thing has one of these in its name: they begin a clause, or take the number back.
_NO_NOUN = frozenset(
    "or if when while whenever where whether is are was were be every whatever whichever "
    "among such else unless because but by wrong incorrect false mistaken not no nor maybe perhaps "
    "probably octal binary hexadecimal hex ternary short top good rem otherwise".split()
)
_IRREGULAR = {
    "people": "person", "persons": "person", "men": "man", "women": "woman", "children": "child",
    "feet": "foot", "mice": "mouse", "geese": "goose", "teeth": "tooth", "leaves": "leaf",
    "knives": "knife", "loaves": "loaf", "halves": "half", "dice": "die", "vertices": "vertex",
    "indices": "index", "inches": "inch", "lives": "life", "wolves": "wolf", "shelves": "shelf",
    "wives": "wife", "thieves": "thief", "calves": "calf", "oxen": "ox", "matrices": "matrix",
    "radii": "radius", "foci": "focus", "lenses": "lens", "buses": "bus", "gas": "gas",
    "gases": "gas", "celsius": "celsius", "hertz": "hertz", "siemens": "siemens", "lux": "lux",
    "plus": "plus", "minus": "minus", "less": "less", "times": "time", "series": "series",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+){0,3}'?")


def parse_noun(text: str) -> Noun | None:
    """The counted thing that a text of plain words names; None where it is no such text.

    >>> parse_noun("slices of pizza")
    Noun(words=('slice', 'pizza'), head='slice', is_changing=False)
    >>> parse_noun("less").is_changing, parse_noun("units"), parse_noun("x+1")
    (True, Noun(words=(), head='', is_changing=False), None)
    """
    words = _split(text)
    if not words or len(words) > MAX_WORDS or not all(_WORD.fullmatch(word) for word in words):
        return None
    if len(words) == 1 and len(words[0]) == 1 and words[0].isascii():
        return None
    if not _NO_NOUN.isdisjoint(words):
        return None
    ones = [singular(word) for word in words]
    is_changing = _changes(words, ones)
    kept = tuple(one for one in ones if one not in _FILLER and one not in COUNTERS)
    if is_changing and not kept:
        kept = tuple(ones)
    ends = [at for at, word in enumerate(words) if word in _HEAD_ENDS and at > 0]
    head = ones[(ends[0] if ends else len(ones)) - 1]
    return Noun(kept, head if head in kept else (kept[-1] if kept else ""), is_changing)


def _split(text: str) -> list[str]:
    words = text.lower().split()
    first = words[0] if words else ""
    if len(words) == 1 and not first.isascii():
        for counter in (*CHANGING_COUNTERS, *COUNTERS):
            if first.startswith(counter) and first != counter and not counter.isascii():
                return [counter, first.removeprefix(counter)]
    return words


def _changes(words: list[str], ones: list[str]) -> bool:
    """Whether the words do something to the number before them."""
    if any(word in NUMBER_WORDS for word in (*words, *ones)):
        return True
    first = ones[0]
    if words in (["points"], ["times"]):
        return False  # a score, and how often; "a point five" and "times two" go on
    if first == "of":
        return words[-1] not in ("them", "these", "those", "it", "all")
    if first in _CHANGING and not (len(ones) > 1 and first in _CHANGING_BUT_USUAL - {"time"}):
        return True
    if any(_CHANGING_FORM.search(word) for word in words[:1]):
        return True
    return any(
        one in ("less", "more", "fewer", "minus", "plus", "squared", "cubed") for one in ones
    )


def singular(word: str) -> str:
    """The singular of an English noun, by rule.

    >>> [singular(word) for word in ("boxes", "parties", "apples", "people", "glass")]
    ['box', 'party', 'apple', 'person', 'glass']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def nouns_agree(a: Noun, b: Noun) -> bool:
    """Whether two nouns may be the same thing; one that is left out agrees with any."""
    if not a.words or not b.words:
        return True
    return a.head == b.head and (set(a.words) <= set(b.words) or set(b.words) <= set(a.words))
