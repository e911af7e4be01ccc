r"""Whether an answer equals the gold answer, by type. What counts as equal: docs/verification.md.

Every type has its own comparison; for mathematics it works on exact numbers and on the shape of the
answer first, and asks math-verify for what is left. Where our own comparison is definite (two
numbers, two tuples, two intervals), math-verify is not asked: it is looser than a verifier of
training data should be (a set for a tuple, 5 cm for 5 m, any subscript).

Raises RefusedError where mathematics would be needed that is not safe to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from virgo_ray.records import AnswerType
from virgo_ray.verify.answers.choice import chosen, letters_of
from virgo_ray.verify.answers.clean import clean, plain, words
from virgo_ray.verify.answers.codes import equal_codes
from virgo_ray.verify.answers.families import equal_families
from virgo_ray.verify.answers.figures import equal_figures
from virgo_ray.verify.answers.infer import infer_type, is_monomial
from virgo_ray.verify.answers.mathcheck import math_equal, numeric_value
from virgo_ray.verify.answers.notation import in_one_notation, without_side_condition
from virgo_ray.verify.answers.number import Number, parse_decimal_comma, parse_number
from virgo_ray.verify.answers.quantity import (
    base_in_digits,
    expressions_equal,
    is_clause,
    named_value,
    quantities_equal,
    split_unit,
)
from virgo_ray.verify.answers.regions import equal_regions
from virgo_ray.verify.answers.relation_words import in_signs
from virgo_ray.verify.answers.relations import (
    equal_chains,
    equal_symmetric,
    factors_are_swapped,
    is_same_curve,
    is_unsolved,
    left_sides_differ,
)
from virgo_ray.verify.answers.shape import (
    Shape,
    parse_parts,
    parse_shape,
    split_assignment,
    without_assignment,
)
from virgo_ray.verify.answers.systems import (
    are_alternatives,
    equal_cases,
    equal_points,
    without_system,
)
from virgo_ray.verify.answers.text import equal_text, same_matter
from virgo_ray.verify.answers.tolerance import Precision, split_precision
from virgo_ray.verify.answers.truth import truth_of
from virgo_ray.verify.answers.vectors import equal_vectors

# "1 7" is no product and no mixed number; "3 1/2" and "7 425 000" are numbers.
_TWO_NUMBERS = re.compile(r"^-?[0-9]{1,12}\s[0-9]{1,2}(?:\s[0-9]{1,2})*$")
_SUBSCRIPT = re.compile(r"^[0-9A-Fa-f ]+_\s?\{?\s?([0-9]{1,3})\s?\}?$")

_POINT = re.compile(r"(?P<name>[A-Z]'?(?:_\{?[0-9]\}?)?)\s?(?P<point>\(.*\))$", re.DOTALL)


def equal(gold: str, answer: str, answer_type: AnswerType, options: Sequence[str] = ()) -> bool:
    """Whether `answer` is the gold answer. `answer_type` must not be AUTO.

    Raises:
        RefusedError: it could not be judged safely.
    """
    if answer_type is AnswerType.CHOICE:
        return _equal_choice(gold, answer, options)
    if not clean(answer):
        return False
    several = letters_of(gold, is_compact=bool(options))
    if several:
        return several == letters_of(answer, is_compact=True)
    if named_value(gold) and named_value(answer):
        return named_value(gold) == named_value(answer)
    gold_relation, relation = in_signs(gold), in_signs(answer)
    if gold_relation or relation:
        return equal_value(gold_relation or gold, relation or answer)
    if answer_type not in (AnswerType.PARTS, AnswerType.LIST):
        for compare_notation in (equal_codes, equal_figures, equal_regions):
            same = compare_notation(gold, answer)
            if same is not None:
                return same
    compare = _BY_TYPE.get(answer_type, equal_value)
    return compare(gold, answer)


def _equal_choice(gold: str, answer: str, options: Sequence[str]) -> bool:
    if not options and _is_other_symbol(gold, answer):
        return False
    right, picked = chosen(gold, options), chosen(answer, options)
    if right is None:
        return words(gold) == words(answer) != ""
    return right == picked


def _is_other_symbol(gold: str, answer: str) -> bool:
    """Whether two letters differ in case only, and are too far in the alphabet for options."""
    right, given = plain(gold), plain(answer)
    return len(right) == len(given) == 1 and right != given and right.lower() not in "abcde"


def _equal_yes_no(gold: str, answer: str) -> bool:
    right = truth_of(gold)
    return right is not None and truth_of(answer) is right


# --- numbers -------------------------------------------------------------------------------------


def _equal_number(gold: str, answer: str) -> bool:
    value, precision = split_precision(gold, is_declared_number=True)
    numeric = _numbers_equal(value, answer, precision)
    if numeric is None and precision != Precision():
        return _evaluates_to(value, answer, precision)
    return numeric if numeric is not None else equal_value(value, answer)


def _evaluates_to(gold: str, answer: str, precision: Precision) -> bool:
    """An expression against a number of a declared precision: \\sqrt{30} is 5.5 (1 decimals)."""
    right = parse_number(gold)
    expression, units = split_unit(value_of(answer))
    value = numeric_value(expression)
    if right is None or value is None:
        return False
    return quantities_equal(right, Number(value, None, units=units), precision)


def _numbers_equal(gold: str, answer: str, precision: Precision) -> bool | None:
    """True or False where both are plain numbers, None where something else has to decide."""
    answer = value_of(answer)
    if is_monomial(gold) or is_monomial(answer):
        return None
    right = parse_number(gold)
    given = parse_number(answer)
    # A decimal comma only where the other side shows that it is one: "1,22" may also be a list.
    right = right or (parse_decimal_comma(gold) if given else None)
    given = given or (parse_decimal_comma(answer) if right else None)
    if right is None or given is None:
        return False if (right and is_clause(answer)) or (given and is_clause(gold)) else None
    return quantities_equal(right, given, precision)


def value_of(answer: str) -> str:
    r"""The value of "x = 5", "\approx 5", "\frac12 \approx 0.5" (the exact side)."""
    answer = clean(answer)
    exact, _, approximate = answer.partition("\\approx")
    if approximate:
        answer = exact if re.search(r"[0-9]", exact) else approximate
    elif answer.count("=") > 1 and not re.search("[,;]|\\([^()]*=", answer):
        answer = answer.rpartition("=")[2]
    if is_unsolved(answer):
        return answer
    answer = re.sub(r"^([0-9.,/ -]{1,30})=\s?[A-Za-z]$", r"\1", answer)  # "12 = x"
    return without_assignment(answer).strip()


# --- everything with a shape ---------------------------------------------------------------------


def equal_value(gold: str, answer: str) -> bool:
    """Mathematical equality of two answers of any shape."""
    gold, answer = (in_one_notation(without_system(clean(side))) for side in (gold, answer))
    answer = without_side_condition(gold, answer)
    if _squeeze(gold) == _squeeze(answer) or same_matter(gold, answer):
        return True
    if _TWO_NUMBERS.search(answer) and not _TWO_NUMBERS.search(gold):
        return False
    if factors_are_swapped(gold, answer) or ("=" not in gold and is_unsolved(answer)):
        return False
    if left_sides_differ(gold, answer) or are_alternatives(gold) != are_alternatives(answer):
        return False
    gold, answer = base_in_digits(gold), base_in_digits(answer)
    numeric = _numbers_equal(value_of(gold), answer, Precision())
    if numeric is not None:
        return numeric
    if _subscripts_differ(gold, answer) or _points_differ(gold, answer):
        return False
    same = _equal_in_notation(gold, answer)
    if same is not None:
        return same
    right, given = _shape(gold), _shape(answer)
    if right and given:
        same = _shapes_equal(right, given)
        if same is not None:
            return same
    names = [split_assignment(side)[0] for side in (gold, answer)]
    if is_same_curve(*names):
        return math_equal(without_assignment(gold), without_assignment(answer))
    return expressions_equal(gold, answer)


def _equal_in_notation(gold: str, answer: str) -> bool | None:
    """What the files for one notation each decide; None where none of them knows it."""
    for compare in (equal_figures, equal_symmetric, equal_chains, equal_regions, equal_families):
        same = compare(gold, answer)
        if same is not None:
            return same
    for compare_parts in (equal_cases, equal_vectors, equal_points):
        same = compare_parts(gold, answer, equal_value)
        if same is not None:
            return same
    return None


def _squeeze(text: str) -> str:
    """Without white space, except between digits: "1 2" is not 12."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)


def _subscripts_differ(gold: str, answer: str) -> bool:
    """Numbers in different bases; math-verify would ignore the base.

    An answer may leave out the base of the gold answer (the question names it), not add one.
    """
    a, b = _SUBSCRIPT.match(gold), _SUBSCRIPT.match(answer)
    return b is not None and (a is None or a[1] != b[1])


def _shape(text: str) -> Shape | None:
    """The shape of an answer, of a point also behind its name: `Q(6,8)`."""
    text = without_assignment(text)
    named = _POINT.match(text)
    shape = parse_shape(named["point"]) if named else None
    if shape and shape.kind == "tuple":
        return shape
    shape = parse_shape(text)
    if shape is None:
        return Shape("list", _both_signs(text)) if "\\pm" in text else None
    if shape.kind in ("set", "list"):
        return replace(
            shape, parts=tuple(sign for part in shape.parts for sign in _both_signs(part))
        )
    return shape


def _both_signs(text: str) -> tuple[str, ...]:
    r"""`2 \pm \sqrt{3}` as the two values that it stands for."""
    if text.count("\\pm") != 1 or "\\mp" in text:
        return (text,)
    return tuple(re.sub(r"\\pm\s*", sign, text) for sign in "+-")


def _points_differ(gold: str, answer: str) -> bool:
    names = [match["name"] if match else "" for match in map(_POINT.match, (gold, answer))]
    return all(names) and names[0] != names[1]


def _shapes_equal(right: Shape, given: Shape) -> bool | None:
    """True or False where the shapes decide, None where mathematics has to."""
    if any("\\pm" in part or "\\mp" in part for part in (*right.parts, *given.parts)):
        return None
    kinds = {right.kind, given.kind}
    if kinds <= {"set", "list"}:
        return _same_parts(right, given) or (None if _has_relations(right, given) else False)
    if kinds == {"tuple"}:
        return _in_order(right, given) or (None if _has_relations(right, given) else False)
    if kinds == {"tuple", "list"}:
        return _in_order(right, given) or None
    if kinds == {"interval"} or kinds == {"interval", "tuple"}:
        brackets = right.open + right.close == given.open + given.close
        return brackets and _in_order(right, given)
    if kinds == {"matrix"}:
        return right.num_columns == given.num_columns and _in_order(right, given)
    if kinds <= {"matrix", "tuple", "interval"} and len(kinds) == 2:
        return _equal_vectors(right, given)
    if kinds == {"union"}:
        return _same_parts(right, given) or None
    return None


def _equal_vectors(right: Shape, given: Shape) -> bool:
    """A point or vector as a column or a row: (6,8) is the column of 6 and 8."""
    matrix, other = (right, given) if right.kind == "matrix" else (given, right)
    is_vector = matrix.num_columns in (1, len(matrix.parts))
    is_row = other.kind == "tuple" or other.open + other.close == "[]"
    return is_vector and is_row and _in_order(right, given)


def _has_relations(right: Shape, given: Shape) -> bool:
    return any(re.search(r"=|<|>|\\[lg]eq?", part) for part in (*right.parts, *given.parts))


def _in_order(right: Shape, given: Shape) -> bool:
    if len(right.parts) != len(given.parts):
        return False
    return all(_parts_equal(a, b) for a, b in zip(right.parts, given.parts, strict=True))


def _same_parts(right: Shape, given: Shape) -> bool:
    """The same parts in any order; one that is said twice counts once."""
    for these, those in ((right.parts, given.parts), (given.parts, right.parts)):
        if not all(any(_parts_equal(a, b) for b in those) for a in these):
            return False
    return True


def _parts_equal(gold: str, answer: str) -> bool:
    """As `equal_value`, but `x = 1` is not `y = 1`."""
    names = [part.rpartition("=")[0] for part in (gold, answer)]
    if all(names) and _squeeze(names[0]) != _squeeze(names[1]):
        return False
    return equal_value(without_assignment(gold), without_assignment(answer))


def _equal_list(gold: str, answer: str) -> bool:
    """The same items in the same order, whatever the brackets."""
    right, given = _shape(clean(gold)), _shape(clean(answer))
    if right is None or given is None or len(right.parts) != len(given.parts):
        return right is given is None and _equal_any(gold, answer)
    return all(_equal_any(a, b) for a, b in zip(right.parts, given.parts, strict=True))


def _equal_parts(gold: str, answer: str) -> bool:
    """Part by part: by label where the answer has labels, else in order; each of its own type."""
    right = parse_parts(gold) or _shape(clean(gold))
    given = parse_parts(answer) or _shape(clean(answer))
    if right is None or given is None or len(right.parts) != len(given.parts):
        return False
    if right.labels and given.labels and right.labels != given.labels:
        return False
    return all(_equal_any(a, b) for a, b in zip(right.parts, given.parts, strict=True))


def _equal_any(gold: str, answer: str) -> bool:
    return equal(gold, answer, infer_type(gold))


_BY_TYPE: dict[AnswerType, Callable[[str, str], bool]] = {
    AnswerType.NUMBER: _equal_number,
    AnswerType.YES_NO: _equal_yes_no,
    AnswerType.TEXT: equal_text,
    AnswerType.LIST: _equal_list,
    AnswerType.PARTS: _equal_parts,
}
