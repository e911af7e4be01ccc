"""Plain arithmetic as tokens, computed exactly with sympy.

sympy gets numbers and operations from a parser of our own, never a text: its parser would be
`eval`, and the LaTeX parser needs milliseconds for every step. Guarantees: no number and no power
that could fill the memory, no square factors looked for in numbers that are long to factorise.
"""

from __future__ import annotations

from sympy import Expr, Integer, Rational, root

MAX_DIGITS = 15
MAX_POWER = 20
OPENING = {"(": ")", "{": "}", "[": "]"}
CLOSING = frozenset(OPENING.values())
ROOTS = frozenset(("\\sqrt", "sqrt", "\u221a"))


def evaluate(words: list[str]) -> Expr:
    """Compute the value of the tokens of plain arithmetic, exactly.

    >>> evaluate("2 * ( 3 - 1 / 2 ) ^ 2".split())
    25/2

    Raises:
        ArithmeticError: malformed, no real number, or larger than what is computed.
    """
    reader = _Reader(words)
    value = reader.read_sum()
    if reader.rest:
        raise ArithmeticError(f"{reader.rest[0]!r} stands where an operator should")
    if value.is_finite is not True or value.is_real is not True:
        raise ArithmeticError(f"{value} is no real number")
    return value


class _Reader:
    """Recursive descent: sum, product, factor (with its powers), atom."""

    def __init__(self, words: list[str]) -> None:
        self.rest = words[::-1]

    def _take(self, *allowed: str) -> str | None:
        return self.rest.pop() if self.rest and self.rest[-1] in allowed else None

    def _expect(self, word: str) -> None:
        if self._take(word) is None:
            raise ArithmeticError(f"{word!r} is missing")

    def read_sum(self) -> Expr:
        value = self._read_product()
        while operator := self._take("+", "-"):
            term = self._read_product()
            value = value + term if operator == "+" else value - term
        return value

    def _read_product(self) -> Expr:
        value, is_share = self._read_factor()
        while True:
            if self._take("*"):
                value, is_share = value * self._read_factor()[0], False
            elif self._take("/"):
                value, is_share = value / self._read_factor()[0], True
            elif (is_share and self._take("of")) or self._is_beside():  # "20% of 50", "2(3 + 4)"
                value, is_share = value * self._read_factor()[0], False
            else:
                return value

    def _is_beside(self) -> bool:
        """Whether a factor follows without an operator: a root or a parenthesis."""
        return bool(self.rest) and (self.rest[-1] in ROOTS or self.rest[-1] == "(")

    def _read_factor(self) -> tuple[Expr, bool]:
        """Return (value, whether it is a share such as 20% or a fraction)."""
        if self._take("-"):
            value, is_share = self._read_factor()
            return -value, is_share
        is_share = bool(self.rest) and "frac" in self.rest[-1]
        value = self._read_atom()
        if self._take("^", "**"):
            return _compute_power(value, self._read_factor()[0]), False
        if self._take("%", "\\%"):
            return value / 100, True
        return value, is_share

    def _read_atom(self) -> Expr:
        word = self.rest.pop() if self.rest else ""
        if word[:1].isdigit():
            return Rational(word.replace(",", ""))
        if word in ("(", "{"):
            value = self.read_sum()
            self._expect(OPENING[word])
            return value
        if "frac" in word:
            return self._read_braced() / self._read_braced()
        if word in ROOTS:
            return self._read_root()
        raise ArithmeticError(f"{word!r} stands where a number should")

    def _read_braced(self) -> Expr:
        self._expect("{")
        value = self.read_sum()
        self._expect("}")
        return value

    def _read_root(self) -> Expr:
        index = Integer(2)
        if self._take("["):
            index = self.read_sum()
            self._expect("]")
        value = self._read_atom()
        if index not in range(2, MAX_POWER + 1):
            raise ArithmeticError(f"the root {index} is not computed")
        _refuse_large(value)
        if value.is_nonnegative is not True:
            raise ArithmeticError(f"the root of {value} is not real")
        return root(value, index)


def _compute_power(base: Expr, exponent: Expr) -> Expr:
    if not exponent.is_Rational or abs(exponent) > MAX_POWER or exponent.q > MAX_POWER:
        raise ArithmeticError(f"the power {exponent} is not computed")
    _refuse_large(base)
    if exponent.q > 1 and base.is_nonnegative is not True:
        raise ArithmeticError(f"the root of {base} is not real")
    return base**exponent


def _refuse_large(value: Expr) -> None:
    """Refuse a large number before it is raised to a power or searched for square factors."""
    if value.is_finite is not True:
        raise ArithmeticError(f"{value} is no number")
    if value.is_Rational:
        is_large = max(abs(value.p), value.q) > 10**MAX_DIGITS
    else:  # powers of powers of roots: as large, or as near to nothing
        is_large = not 10**-MAX_DIGITS < abs(value.evalf(5)) < 10**MAX_DIGITS
    if is_large:
        raise ArithmeticError("a power of so large or small a number is not computed")
