"""No pattern takes more than linear time: long answers and long gold answers, in CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from virgo_ray.verify.answers import (
    clean,
    codes,
    dates,
    families,
    infer,
    names,
    regions,
    relations,
    shape,
    signs,
    systems,
)
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

MAX_CPU_S = 1.5
N = 3900
LONG = {
    "snake case": "final_number_of_small_objects_" * (N // 30),
    "digits": "7" * N,
    "digits and dashes": "1-" * (N // 2),
    "digits and colons": "1:" * (N // 2),
    "digits and points": "1." * (N // 2),
    "digits and spaces": "1 " * (N // 2),
    "letters": "x" * N,
    "letters and spaces": "x " * (N // 2),
    "words": "one and " * (N // 8),
    "open braces": "{" * N,
    "nested braces": "{" * (N // 2) + "}" * (N // 2),
    "open brackets": "(" * N,
    "commands": "\\frac" * (N // 5),
    "subscripts": "x_" * (N // 2),
    "subscripts in braces": "x_{1}" * (N // 5),
    "primes": "x" + "'" * N,
    "superscripts": "x^" * (N // 2),
    "stars": "A^{\\dagger}" * (N // 11),
    "equal signs": "x=" * (N // 2),
    "inequalities": "x<" * (N // 2),
    "unions": "(1,2)\\cup" * (N // 9),
    "cases": "\\begin{cases}" * (N // 13),
    "rows": "\\begin{cases}" + "1&x\\\\" * (N // 5) + "\\end{cases}",
    "plus minus": "+-" * (N // 2),
    "texts": "\\text{a}" * (N // 8),
    "open texts": "\\text{a " * (N // 8),
    "raised digits": "\u2075" * N,
    "roots": "\u221a" * N,
    "degrees": "1^\\circ" * (N // 7),
    "white space": " " * N + "x",
    "months": "July 4, " * (N // 8),
    "durations": "1 h 30 min " * (N // 11),
    "set builder": "\\{x \\mid " * (N // 9),
    "angles": "\\angle ABC" * (N // 10),
}
READERS: tuple[Callable[[str], object], ...] = (
    clean.clean,
    clean.plain,
    signs.with_scripts,
    names.with_plain_names,
    shape.parse_shape,
    shape.parse_parts,
    shape.split_list,
    shape.split_assignment,
    infer.infer_type,
    infer.is_monomial,
    codes.kind_of,
    dates.parse_date,
    regions.is_region,
    systems.parse_cases,
    systems.parse_points,
    families.parse_families,
    lambda text: relations.left_sides_differ(text, text + "=1"),
    lambda text: relations.equal_symmetric(text, text),
    lambda text: relations.equal_chains(text, text),
)


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    slow = {str(read): s for read in READERS if (s := cpu_s(lambda read=read: read(text))) > 0.3}
    assert slow == {}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_answers_and_gold_answers_are_judged_soon(text: str) -> None:
    assert cpu_s(lambda: judge_item(Item("42", text))) < MAX_CPU_S
    assert cpu_s(lambda: judge_item(Item("x+1", f"\\boxed{{{text}}}"))) < MAX_CPU_S
    assert cpu_s(lambda: judge_item(Item(text[:199], "\\boxed{x+1}"))) < MAX_CPU_S
    assert cpu_s(lambda: judge_item(Item(text, "\\boxed{x+1}"))) < MAX_CPU_S
