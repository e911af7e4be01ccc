r"""Fresh verdict cases of many kinds, drawn from templates by a seed.

`verdict_templates/*.txt` hold the kinds. A heading "[kind]" is followed by one template a line:

    + «n»«u('km')» ⇒ «n» km              the answer in a box is right for this gold answer
    - «n»«u('km')» ⇒ «n» miles           it is wrong
    -! Is the answer «n»? ⇒ «n»          "!": the whole response, in no box; ⏎ is a new line
    +! The answer is «L». ⇒ «L» ⇒ «opts»  the third part lists the options, separated by ";"

What stands in «» is a Python expression over the names of `values`. Half of a kind's cases are
right answers and half are wrong ones. The templates hold only what a careful person would sign.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "verdict_templates"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
POOLS = {
    "thing": "marbles stickers pencils cookies tickets chairs lemons stamps cylinders buttons",
    "colour": "green yellow purple brown cyan orange gray pink",
    "name": "Amira Tobias Priya Mateo Ingrid Kwame Yuki Leonie Farid Oksana",
    "word": "BAKERY PHARMACY LIBRARY TAXI NORTHGATE MUSEUM AIRPORT HARBOUR GALAXY",
    "country": "Norway Brazil Kenya Japan Portugal Canada",
    "animal": "zebra giraffe penguin horse tiger rabbit camel",
}
PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
# What an option may say, in diagrams of food webs, cells, plants and circuits.
OPTIONS = (
    ("heron", "minnow", "algae", "otter"),
    ("nucleus", "membrane", "ribosome", "vacuole"),
    ("stigma", "petal", "anther", "sepal"),
    ("battery", "resistor", "switch", "lamp"),
    ("mantle", "crust", "outer core", "inner core"),
)
FRAMES = (
    r"\boxed{@}",
    r"$\boxed{@}$",
    r"The answer is $\boxed{@}$.",
    r"**Final Answer:** $\boxed{@}$",
    "Both conditions hold.\n\n\\[\n\\boxed{@}\n\\]",
    r"Simplifying gives the final result $$\boxed{@}$$",
)
UNIT_STYLES = (r"\text{ @}", r"\ \text{@}", r"~\mathrm{@}", " @", r"\,\text{@}")


@dataclass(frozen=True)
class Template:
    kind: str
    expected: bool
    is_response: bool
    prediction: str
    gold: str
    choices: str


def read_templates() -> dict[str, list[Template]]:
    """The templates of every kind, by the kind's name."""
    kinds: dict[str, list[Template]] = {}
    kind = ""
    for path in sorted(TEMPLATES.glob("*.txt")):
        for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
            if line.startswith("["):
                kind = line.strip("[]")
            else:
                kinds.setdefault(kind, []).append(_template(kind, line))
    return kinds


def _template(kind: str, line: str) -> Template:
    sign, _, rest = line.partition(" ")
    prediction, gold, *choices = (part.strip() for part in rest.split("⇒"))
    if sign.rstrip("!") not in ("+", "-"):
        raise ValueError(f"a template starts with {sign!r}; expected +, -, +! or -!: {line}")
    return Template(kind, sign[0] == "+", sign[-1] == "!", prediction, gold, "".join(choices))


def rows_of(templates: list[Template], num: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """`num` different rows, right and wrong answers in turn, every template about equally often."""
    groups = [[t for t in templates if t.expected is outcome] for outcome in (True, False)]
    turns = [cycle(rng.sample(group, len(group))) for group in groups if group]
    seen = set()
    for template in (next(turn) for turn in chain.from_iterable([turns] * (20 * num))):
        row, key = _row(template, rng)
        if key not in seen:
            seen.add(key)
            yield row
        if len(seen) == num:
            return
    raise ValueError(f"{templates[0].kind}: only {len(seen)} different rows, expected {num}")


def rows(seed: int, num: int, kind: str = "") -> list[dict[str, Any]]:
    """`num` rows of every kind whose name contains `kind`; the same ones for the same seed."""
    kinds = read_templates()
    chosen = [name for name in kinds if kind.lower() in name.lower()]
    drawn = (rows_of(kinds[name], num, random.Random(f"{seed} {name}")) for name in chosen)
    return list(chain.from_iterable(drawn))


def _row(template: Template, rng: random.Random) -> tuple[dict[str, Any], tuple[str, ...]]:
    names = values(rng)
    filled = [_fill(t, names) for t in (template.prediction, template.gold, template.choices)]
    prediction, gold, choices = filled
    key = (*filled,)
    if not template.is_response:
        prediction = rng.choice(FRAMES).replace("@", prediction)
    row = {"prediction": prediction.replace("⏎", "\n"), "gold": gold}
    row |= {"expected": template.expected, "kind": template.kind}
    if choices:
        row["choices"] = choices.split(" ; ")
    return row, key


def _fill(text: str, names: dict[str, Any]) -> str:
    """The template with its expressions replaced; they are our own, never a model's."""
    first, *rest = text.split("«")
    for part in rest:
        expression, _, after = part.partition("»")
        first += eval('f"""{' + expression + '}"""', {}, names) + after
    return first


def values(rng: random.Random) -> dict[str, Any]:
    """Random values for the names that templates use; no two of a kind are the same."""
    names: dict[str, Any] = {}
    names["n"], names["m"] = rng.sample(range(13, 98), 2)
    names["k"], names["j"] = rng.sample(range(2, 10), 2)
    names["p"] = rng.choice(PRIMES)
    names["s"] = rng.randint(11, 58)
    names["big"] = rng.randint(1001, 9899)
    names["big2"], names["big3"] = rng.sample(range(101, 998), 2)
    names["v"], names["w"] = rng.sample("qwzr", 2)
    names["f"] = rng.choice("fg")
    names["P"], names["Q"], names["R"], names["S"] = rng.sample("DEFGHJKLMNPQ", 4)
    for name, pool in POOLS.items():
        names[name], names[f"{name}2"] = rng.sample(pool.split(), 2)
    names["plate"], names["plate2"] = (f"KX{rng.randint(10, 99)} {end}" for end in ("BZT", "BZJ"))
    names |= {"words": lambda n: words(n, rng), "u": lambda unit: _unit(unit, rng)}
    names |= {"comma": "{:,}".format, "binary": "{:b}".format}
    return names | _options(names, rng)


def _options(names: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Four options, of which L and M are two letters; the third letter R is a vertex name too."""
    options = rng.sample(rng.choice(OPTIONS), 4)
    numbers = [str(number) for number in rng.sample(range(101, 180), 4)]
    right, other = rng.sample(range(4), 2)
    numbers[right], numbers[other] = str(names["n"]), str(names["m"])
    return {
        "L": "ABCD"[right],
        "M": "ABCD"[other],
        "optL": options[right],
        "optM": options[other],
        "opts": " ; ".join(options),
        "nums": " ; ".join(numbers),
    }


def words(number: int, rng: random.Random) -> str:
    """A number below 100 in words, with a hyphen or a space.

    >>> words(21, random.Random(0)).replace("-", " ")
    'twenty one'
    """
    if number < 20:
        return SMALL.split()[number]
    tens = TENS.split()[number // 10 - 2]
    return f"{tens}{rng.choice('- ')}{SMALL.split()[number % 10]}" if number % 10 else tens


def _unit(unit: str, rng: random.Random) -> str:
    """The unit behind a number in one of the ways that models write it.

    Upright letters swallow the spaces of several words, so those stand in \\text.
    """
    styles = [style for style in UNIT_STYLES if " " not in unit or "mathrm" not in style]
    return rng.choice(styles).replace("@", unit)
