"""Random gold answers of every type: what docs/verification.md calls equal, and near misses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from virgo_ray.records import AnswerType


@dataclass(frozen=True)
class Case:
    """`same` are renderings of `gold`, `other` are near misses."""

    gold: str
    same: tuple[str, ...]
    other: tuple[str, ...]
    answer_type: AnswerType = AnswerType.AUTO
    options: tuple[str, ...] = ()


def _fraction(rng: random.Random) -> Fraction:
    value = Fraction(rng.randint(1, 60), rng.randint(2, 12))
    return value if value.denominator > 1 else value + Fraction(1, 3)


def _tex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    if value.denominator == 1:
        return str(value)
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def integer(rng: random.Random) -> Case:
    n = rng.randint(1000, 9_999_999) * rng.choice([1, -1])
    same = (
        f"{n:,}",
        f"{n}.0",
        f"${n}$",
        rf"x = {n}",
        rf"\text{{{n}}}",
        f"{n} apples",
        f"{n:,}".replace(",", "{,}"),
    )
    return Case(str(n), same, (str(n + 1), str(-n), f"{n}0", f"{n}.5", f"{n // 10}"))


def decimal(rng: random.Random) -> Case:
    cents = rng.randint(1, 99999) * 10 + rng.randint(1, 9)
    text = f"{cents // 1000}.{cents % 1000:03d}"
    exact = Fraction(cents, 1000)
    power = rf"{cents} \times 10^{{-3}}"
    same = (
        text,
        text + "0",
        f"{cents}e-3",
        power,
        _tex(exact),
        f"{exact.numerator}/{exact.denominator}",
    )
    near = f"{cents // 1000}.{cents % 1000 + 1:03d}"
    return Case(text, same, (near, f"-{text}", str(cents), f"{cents}e-2"))


def fraction(rng: random.Random) -> Case:
    value = _fraction(rng)
    p, q = value.numerator, value.denominator
    same = [
        f"{p}/{q}",
        rf"\dfrac{{{p}}}{{{q}}}",
        _tex(value),
        rf"\frac{{{3 * p}}}{{{3 * q}}}",
        f"{float(value):.9f}",
    ]
    if p > q:
        same += [rf"{p // q}\frac{{{p % q}}}{{{q}}}", f"{p // q} {p % q}/{q}"]
    other = (f"{q}/{p}", f"{p + 1}/{q}", _tex(-value), f"{float(value) + 0.01:.9f}")
    return Case(_tex(value), tuple(same), other)


def percent(rng: random.Random) -> Case:
    n = rng.randint(2, 98)
    same = (rf"{n}\%", f"{n} %", f"{n} percent", str(n), f"{n / 100:.2f}")
    return Case(f"{n}%", same, (f"{n + 1}%", f"{n}0%", f"{(n + 1) / 100:.2f}"))


def with_unit(rng: random.Random) -> Case:
    n = rng.randint(2, 500)
    same = (
        rf"{n} \text{{ cm}}",
        rf"{n}\,\mathrm{{cm}}",
        f"{n}cm",
        str(n),
        f"{10 * n} mm",
        f"{n} centimeters",
    )
    return Case(f"{n} cm", same, (f"{n} m", f"{n + 1} cm", f"{n} cm^2", f"{n} kg", f"{n} mm"))


def tolerance(rng: random.Random) -> Case:
    n = rng.randint(100, 900)
    gold = f"{n}.5 (tolerance 0.2)"
    return Case(gold, (f"{n}.5", f"{n}.6", f"{n}.7", f"{n}.3"), (f"{n}.8", f"{n}.2", f"{n + 1}.5"))


def figures(rng: random.Random) -> Case:
    n = rng.randint(100, 899)
    gold = f"0.0{n} (3 significant figures)"
    return Case(gold, (f"0.0{n}", f"0.0{n}2", f"0.0{n}4"), (f"0.0{n + 1}", f"0.{n}", f"0.0{n}9"))


def polynomial(rng: random.Random) -> Case:
    a, b = rng.sample(range(1, 10), 2)
    gold = f"x^2+{a + b}x+{a * b}"
    same = (
        f"(x+{a})(x+{b})",
        f"{a * b}+{a + b}x+x^{{2}}",
        rf"\left(x+{b}\right)\left(x+{a}\right)",
    )
    return Case(
        gold, same, (f"(x+{a})(x+{b + 1})", f"x^2-{a + b}x+{a * b}", f"x^2+{a + b}x+{a * b + 1}")
    )


def surd(rng: random.Random) -> Case:
    a, b = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    same = (rf"\sqrt{{{a * a * b}}}", rf"{a} \sqrt{b}", rf"{a}\cdot {b}^{{1/2}}", f"{a}\u221a{b}")
    return Case(
        rf"{a}\sqrt{{{b}}}",
        same,
        (rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b}}}", rf"-{a}\sqrt{{{b}}}"),
    )


def equation(rng: random.Random) -> Case:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    same = (f"y={a}x+{b}", f"y = {b} + {a}x", f"y-{a}x={b}", f"y={a}x+{b} ")
    return Case(f"y={a}x+{b}", same, (f"y={a}x-{b}", f"y={a + 1}x+{b}", f"y={b}", f"x={a}y+{b}"))


def interval(rng: random.Random) -> Case:
    a = rng.randint(-9, 9)
    b = a + rng.randint(1, 9)
    left, right = rng.choice("[("), rng.choice("])")
    gold = f"{left}{a}, {b}{right}"
    if (left, right) == ("(", ")"):
        gold, left, b = f"(-\\infty, {b}]", "(", b
        same = (rf"\left(-\infty,{b}\right]", f"$(-\\infty, {b}]$")
        return Case(gold, same, (f"(-\\infty, {b})", f"(-\\infty, {b + 1}]", f"[{b}, \\infty)"))
    flipped = {"[": "(", "(": "["}[left]
    same = (
        rf"\left{left}{a},{b}\right{right}",
        rf"x \in {left}{a}, {b}{right}",
        f"{left}{a}.0,{b}{right}",
    )
    return Case(
        gold,
        same,
        (f"{flipped}{a}, {b}{right}", f"{left}{a}, {b + 1}{right}", f"{left}{a - 1}, {b}{right}"),
    )


def a_set(rng: random.Random) -> Case:
    items = rng.sample(range(-20, 20), rng.randint(2, 5))
    mixed = rng.sample(items, len(items))
    inner = ", ".join(map(str, items))
    same = (
        rf"\{{{', '.join(map(str, mixed))}\}}",
        ", ".join(map(str, mixed)),
        " and ".join(map(str, mixed)),
    )
    other = (rf"\{{{inner}, 99\}}", rf"\{{{', '.join(map(str, items[1:]))}\}}", rf"\{{{inner}1\}}")
    return Case(rf"\{{{inner}\}}", same, other)


def a_tuple(rng: random.Random) -> Case:
    items = rng.sample(range(1, 30), 3)
    inner = ",".join(map(str, items))
    same = (
        f"({', '.join(map(str, items))})",
        rf"\left({inner}\right)",
        f"({items[0]}.0,{items[1]},{items[2]})",
        f"(x,y,z)=({inner})",
    )
    swapped = f"({items[1]},{items[0]},{items[2]})"
    return Case(
        f"({inner})", same, (swapped, f"({inner},1)", f"({items[0]},{items[1]},{items[2] + 1})")
    )


def matrix(rng: random.Random) -> Case:
    a, b, c, d = (rng.randint(1, 9) for _ in range(4))
    body = rf"{a}&{b}\\{c}&{d}"
    same = (
        rf"\begin{{bmatrix}} {a} & {b} \\ {c} & {d} \end{{bmatrix}}",
        rf"\left[\begin{{array}}{{cc}}{body}\end{{array}}\right]",
        rf"\begin{{pmatrix}}{2 * a}/2&{b}\\{c}.0&{d}\end{{pmatrix}}",
    )
    other = (
        rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d + 1}\end{{pmatrix}}",
        rf"\begin{{pmatrix}}{a}&{b}&{c}&{d}\end{{pmatrix}}",
        rf"\begin{{pmatrix}}{a + 1}&{b}\\{c}&{d}\end{{pmatrix}}",
    )
    return Case(rf"\begin{{pmatrix}}{body}\end{{pmatrix}}", same, other)


def choice(rng: random.Random) -> Case:
    options = tuple(str(n) for n in rng.sample(range(20, 99), 4))
    right = rng.randrange(4)
    wrong = (right + 1) % 4
    letter, text = "ABCD"[right], options[right]
    same = (
        letter,
        f"({letter})",
        f"{letter}.",
        f"{letter}. {text}",
        text,
        f"option {letter}",
        letter.lower(),
    )
    other = (
        "ABCD"[wrong],
        options[wrong],
        f"{letter}. {options[wrong]}",
        f"{'ABCD'[wrong]}. {text}",
        "E",
    )
    return Case(rng.choice([letter, text]), same, other, options=options)


def yes_no(rng: random.Random) -> Case:
    yes = ("yes", "Yes", "YES.", "true", r"\text{Yes}", "Yes, it is")
    no = ("no", "No.", "false", r"\text{no}", "No, it is not")
    same, other = (yes, no) if rng.random() < 0.5 else (no, yes)
    return Case(same[0], same, other)


def text(rng: random.Random) -> Case:
    color, shape = rng.choice(["red", "green", "blue"]), rng.choice(["circle", "square", "star"])
    gold = f"{color} {shape} | {shape} in {color}"
    same = (
        f"{color} {shape}",
        f"The {color} {shape}.",
        rf"\text{{{color.title()} {shape}}}",
        f"{shape} in {color}",
    )
    return Case(gold, same, (color, shape, f"pale {color} {shape}", f"{color} {shape}s"))


def ordered_list(rng: random.Random) -> Case:
    items = rng.sample(range(1, 50), 3)
    inner = ", ".join(map(str, items))
    same = (inner, f"[{inner}]", f"({inner})", "; ".join(map(str, items)))
    other = (", ".join(map(str, items[::-1])), inner + ", 7", ", ".join(map(str, items[:2])))
    return Case(inner, same, other, AnswerType.LIST)


def parts(rng: random.Random) -> Case:
    a, b = rng.sample(range(1, 90), 2)
    same = (f"(a) {a} (b) {b}", f"(a) {a}, (b) {b}.0", f"{a}, {b}", f"a) {a}; b) {b}")
    return Case(f"(a) {a} (b) {b}", same, (f"(a) {b} (b) {a}", f"(a) {a}", f"(a) {a} (b) {b + 1}"))


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    integer, decimal, fraction, percent, with_unit, tolerance, figures, polynomial, surd, equation,
    interval, a_set, a_tuple, matrix, choice, yes_no, text, ordered_list, parts,
)  # fmt: skip
