r"""Whether two parsed formulas are the same, without the tolerance of math-verify near zero.

Two scalars are the same where they have the same value at every point that was tried: constants
agree to 45 significant digits, and to as many more as the sizes in them need (a decimal to six
places), functions at points of both signs where both are real.
That takes no `simplify`, and an absolute difference is never taken for a relative one. An equation
is the same as another where their two sides differ by a constant factor.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import (
    Equality,
    GreaterThan,
    Relational,
    StrictGreaterThan,
    StrictLessThan,
    Unequality,
)
from sympy.functions.elementary.hyperbolic import HyperbolicFunction

DIGITS = 60
# So many of the digits may be noise.
NOISE_DIGITS = 15
MAX_DIGITS = 6000
# As in tolerance.py: a decimal is an exact value where it agrees to six places.
PLACES = 6
NUM_POINTS = 14
MIN_DECIDED = 3
MAX_SYMBOLS = 12
MAX_NODES = 400
_UNDECIDABLE = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)


def same_scalar(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions have the same value everywhere; None where that was not decided."""
    if not all(isinstance(side, sympy.Expr) for side in (gold, answer)):
        return None
    gold, answer = _functions_named(gold), _functions_named(answer)
    if _is_undecidable(gold) or _is_undecidable(answer):
        return None
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if len(symbols) > MAX_SYMBOLS:
        return None
    digits = digits_needed(gold, answer)
    if digits > MAX_DIGITS:
        return False
    if not symbols:
        return _same_constant(gold, answer, digits)
    return _agree_at_points(gold, answer, symbols, digits)


def digits_needed(*sides: Any) -> int:
    r"""As many digits as tell `1-10^{-77}` from 1, and `57!` from `57!+1`.

    >>> digits_needed(sympy.Integer(3)) < digits_needed(sympy.Pow(10, -77, evaluate=False)) < 300
    True
    """
    return DIGITS + 2 * sum(_num_digits(n) for s in sides for n in sympy.preorder_traversal(s))


def _num_digits(node: Any) -> int:
    """The decimal places by which a number is away from one, in either direction."""
    if isinstance(node, HyperbolicFunction) and node.is_number:
        return _num_digits(sympy.exp(node.args[0], evaluate=False))  # tanh(100) is almost 1
    if isinstance(node, (sympy.Add, sympy.Mul)) or not getattr(node, "is_number", False):
        return 0
    if isinstance(node, sympy.Rational):
        return int(max(abs(node.p).bit_length(), node.q.bit_length()) * 0.30103)
    value = node.evalf(NOISE_DIGITS)
    if not value.is_Float or not value.is_finite:
        return 0
    _, _, exponent, num_bits = value._mpf_
    return int(abs(exponent + num_bits) * 0.30103)


def _functions_named(side: sympy.Expr) -> sympy.Expr:
    """`f(x)` and `dy/dx` as symbols of their own, so that f(x) is not f(y)."""
    unknown = side.atoms(AppliedUndef) | {
        d for d in side.atoms(sympy.Derivative) if not d.expr.has(*d.variables)
    }
    return side.xreplace({f: sympy.Symbol(str(f)) for f in unknown}) if unknown else side


def _is_undecidable(side: sympy.Expr) -> bool:
    return side.has(*_UNDECIDABLE) or sum(1 for _ in sympy.preorder_traversal(side)) > MAX_NODES


def _has_decimal(side: sympy.Expr) -> bool:
    return bool(side.atoms(sympy.Float))


def _same_constant(gold: sympy.Expr, answer: sympy.Expr, digits: int) -> bool | None:
    if sympy.oo in (gold, answer) or -sympy.oo in (gold, answer):
        return bool(gold == answer)
    a, b = (_value(_with_real_roots(side), digits) for side in (gold, answer))
    if a is None or b is None:
        return None
    return _close(a, b, _has_decimal(gold) or _has_decimal(answer), digits)


def _with_real_roots(side: sympy.Expr) -> sympy.Expr:
    """The cube root of -8 as -2, where nothing else is complex."""
    if side.has(sympy.I):
        return side
    odd = {
        power: -((-power.base) ** power.exp)
        for power in side.atoms(sympy.Pow)
        if power.base.is_negative and power.exp.is_Rational and power.exp.p == 1 and power.exp.q % 2
    }
    return side.xreplace(odd)


def _value(side: sympy.Expr, digits: int, point: dict[Any, Any] | None = None) -> Any:
    """The value as a number of so many digits, None where there is none.

    The point is put in first: rational arithmetic is exact, so that zero is no noise.
    """
    try:
        value = side.xreplace(point).evalf(digits) if point else side.evalf(digits)
        real, imaginary = (_without_noise(part) for part in value.as_real_imag())
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
        return None
    return real, imaginary


def _without_noise(part: Any) -> Any:
    """A difference of equals has no digit that counts: it is zero."""
    return sympy.S.Zero if part.is_Float and part._prec < 8 else part


def _agreement(digits: int) -> sympy.Float:
    """The largest relative difference of two equal numbers."""
    return sympy.Float(10, digits) ** (NOISE_DIGITS - digits)


def _close(a: Any, b: Any, with_decimal: bool, digits: int) -> bool:
    largest = max(abs(part) for part in (*a, *b))
    gap = max(abs(x - y) for x, y in zip(a, b, strict=True))
    if gap <= largest * _agreement(digits):
        return True
    # Below 0.001 six places are too few digits to call two values the same.
    return bool(with_decimal and largest >= 0.001 and gap <= sympy.Float("0.5e-6"))


def _agree_at_points(
    gold: sympy.Expr, answer: sympy.Expr, symbols: list[Any], digits: int
) -> bool | None:
    """Whether they agree wherever both are meant to be real; None where that is almost nowhere.

    `\\sqrt{xy}` is `\\sqrt{x}\\sqrt{y}` for the lengths x and y: where something under a root or in
    a logarithm is negative, the two are not compared.
    """
    decimal = _has_decimal(gold) or _has_decimal(answer)
    is_complex = gold.has(sympy.I) or answer.has(sympy.I)
    needs_negative = gold.has(sympy.Abs) != answer.has(sympy.Abs)
    rooted = _under_roots(gold) | _under_roots(answer)
    near = _agreement(digits)
    num_decided = 0
    for point in _points(symbols):
        has_negative = any(value < 0 for value in point.values())
        if has_negative and any(_is_negative(part, point) for part in rooted):
            continue
        a, b = _value(gold, digits, point), _value(answer, digits, point)
        if a is None or b is None:
            continue
        if not is_complex and any(abs(v[1]) > near * (abs(v[0]) + 1) for v in (a, b)):
            continue
        if not _close(a, b, decimal, digits):
            return False
        num_decided += has_negative or not needs_negative
    return True if num_decided >= MIN_DECIDED else None


def _under_roots(side: sympy.Expr) -> set[sympy.Expr]:
    roots = {p.base for p in side.atoms(sympy.Pow) if not p.exp.is_integer and p.base.free_symbols}
    return roots | {log.args[0] for log in side.atoms(sympy.log) if log.args[0].free_symbols}


def _is_negative(part: sympy.Expr, point: dict[Any, Any]) -> bool:
    value = _value(part, DIGITS, point)
    return value is not None and value[0] < 0


def _points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """Fixed points: positive ones, large and below one; integers; and some of mixed signs."""
    rng = random.Random(len(symbols))
    for number in range(NUM_POINTS):
        top = (97, 900, 7)[number % 3]
        size = [sympy.Rational(rng.randint(1, top * 10), 97) for _ in symbols]
        if number % 4 == 3:
            size = [sympy.Integer(rng.randint(1, 9)) for _ in symbols]
        signs = [1 if number % 2 == 0 else rng.choice((1, -1, -1)) for _ in symbols]
        yield {s: v * sign for s, v, sign in zip(symbols, size, signs, strict=True)}


def with_imaginary_unit(gold: Any, answer: Any) -> tuple[Any, Any]:
    """Both with `i` as the imaginary unit, and `j` where the gold answer is a number with it."""
    units = {"i"} | ({"j"} if _is_number_with(gold, "j") else set())
    return _with_unit(gold, units), _with_unit(answer, units)


def _is_number_with(side: Any, name: str) -> bool:
    symbols = {str(symbol) for symbol in getattr(side, "free_symbols", ())}
    return symbols == {name} and bool(side.is_Add or side.has(sympy.exp))


def _with_unit(side: Any, names: set[str]) -> Any:
    if not isinstance(side, (sympy.Basic, sympy.MatrixBase)):
        return side
    units = {s: sympy.I for s in side.free_symbols if str(s) in names}
    try:
        return side.xreplace(units) if units else side
    except TypeError:  # "i < 3": what has an order is no imaginary number
        return side


def same_relation(gold: Relational, answer: Relational) -> bool | None:
    """Whether two equations or inequalities say the same; None where that was not decided."""
    kinds = []
    sides = []
    for relation in (gold, answer):
        is_turned = isinstance(relation, (GreaterThan, StrictGreaterThan))
        left, right = (relation.rhs, relation.lhs) if is_turned else (relation.lhs, relation.rhs)
        if not isinstance(left, sympy.Expr) or not isinstance(right, sympy.Expr):
            return None
        kinds.append(_kind(relation))
        sides.append(_functions_named(cast(sympy.Expr, sympy.Add(left, -right))))
    if kinds[0] != kinds[1]:
        return False
    is_named = isinstance(gold, Equality) and gold.lhs.is_Symbol
    if is_named and gold.lhs == answer.lhs and not gold.rhs.has(gold.lhs):
        return same_scalar(gold.rhs, answer.rhs)
    if sides[0].free_symbols != sides[1].free_symbols:
        return False
    return _same_up_to_a_factor(sides[0], sides[1], may_be_negative=kinds[0] in ("=", "!="))


def _kind(relation: Relational) -> str:
    if isinstance(relation, Equality):
        return "="
    if isinstance(relation, Unequality):
        return "!="
    return "<" if isinstance(relation, (StrictLessThan, StrictGreaterThan)) else "<="


def _same_up_to_a_factor(
    gold: sympy.Expr, answer: sympy.Expr, may_be_negative: bool
) -> bool | None:
    if _is_undecidable(gold) or _is_undecidable(answer) or len(gold.free_symbols) > MAX_SYMBOLS:
        return None
    symbols = sorted(gold.free_symbols, key=str)
    if not symbols:
        return None
    digits = digits_needed(gold, answer)
    if digits > MAX_DIGITS:
        return False
    factors = []
    for point in _points(symbols):
        a, b = _value(gold, digits, point), _value(answer, digits, point)
        if a and b and not any((a[1], b[1])) and b[0]:
            factors.append(a[0] / b[0])
    if len(factors) < MIN_DECIDED:
        return None
    decimal = _has_decimal(gold) or _has_decimal(answer)
    near = _agreement(digits) if not decimal else sympy.Float("1e-6")
    is_constant = all(abs(f - factors[0]) <= near * abs(factors[0]) for f in factors)
    if is_constant and factors[0]:
        return may_be_negative or bool(factors[0] > 0)
    # math-verify, which is asked next, takes a difference of 10^{-60} for none.
    return False if digits > 2 * DIGITS else None
