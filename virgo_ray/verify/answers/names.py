r"""Names in formulas, rewritten so that the LaTeX grammar of `mathcheck.py` cannot confuse them.

math-verify drops primes, transposes and subscripts in words, reads `\angle PQR` as a product and
`I` as the imaginary unit. Here every such name becomes one symbol `z_{...}` whose subscript spells
the name in digits: two names are the same symbol exactly where they are the same name. What is
only another glyph or spelling (`\varepsilon`, `E_{1}`, `E_\text{1}`) is one name.

Guarantees: linear time; no state, so that gold answer and answer can be rewritten apart.
"""

from __future__ import annotations

import re

_GLYPHS = {
    r"\varepsilon": r"\epsilon",
    r"\vartheta": r"\theta",
    r"\varphi": r"\phi",
    r"\varrho": r"\rho",
    r"\varsigma": r"\sigma",
    r"\imath": "i",
    r"\jmath": "j",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\vert": "|",
    r"\mid": "|",
    r"\top": "T",
    r"\intercal": "T",
    r"\ell": "l",
    r"\dag": r"\dagger",
    r"\ast": "*",
}
_GLYPH = re.compile("|".join(rf"{re.escape(name)}(?![A-Za-z])" for name in _GLYPHS))
_WORD = re.compile(
    r"\\(?:text(?:rm|it|bf|normal)?|mathrm|mathit|mathbf|mathsf|operatorname|mbox|bm|boldsymbol)"
    r"\s?\{\s?([A-Za-z0-9.+\-' ]{1,40})\}"
)
_FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "arcsin", "arccos",
        "arctan", "log", "ln", "exp", "lg", "min", "max", "gcd", "lcm", "det", "lim", "sup",
        "inf", "deg", "dim", "ker", "Re", "Im", "arg", "tr", "rank",
    ]
)  # fmt: skip
_ASCII = re.compile(
    r"(?<![A-Za-z\\])(?P<word>alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|phi|omega"
    r"|sin|cos|tan|cot|arcsin|arccos|arctan|log|ln|exp|infty)(?![A-Za-z])"
)
_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s?\(([^()]{1,200})\)")
_GEOMETRIC = re.compile(
    r"\\(?P<what>triangle|angle|overline|vec|overleftrightarrow|measuredangle|square"
    r"|parallelogram|odot|widehat|overset\{\\frown\})"
    r"\s?\{?\s?(?P<points>(?:[A-Z]'{0,3}\s?){1,8})\}?"
)
_TRANSPOSED = re.compile(r"\(\s?([A-Z]{1,6})\s?\)\s?\^\s?(?:T(?![A-Za-z])|\{\s?T\s?\})")
_POWER_T = re.compile(r"\^\s?(?:T(?![A-Za-z])|\{\s?T\s?\})")
_SCRIPT = r"(?:\{[^{}]{1,60}\}|\\[A-Za-z]{1,15}|[A-Za-z0-9])"
_NAME = re.compile(
    r"(?P<head>\\[A-Za-z]{1,30}|[A-Za-z])"
    rf"(?P<sub>\s?_\s?{_SCRIPT})?"
    rf"(?P<prime>'{{1,4}}|\^\s?\{{\s?(?:\\prime\s?){{1,4}}\}}|\^\s?\\prime)?"
    rf"(?P<sub2>_\s?{_SCRIPT})?"
    r"(?P<star>\^\s?(?:\{\s?(?:T|\\dagger|\*)\s?\}|T(?![A-Za-z])|\\dagger|\*))?"
    r"(?P<arguments>(?<=')\([^()]{1,40}\))?"
)
# Commands that are no names: what follows them is their own business.
_COMMANDS = _FUNCTIONS | frozenset(
    [
        "frac", "sqrt", "sum", "prod", "int", "oint", "iint", "bigcup", "bigcap", "binom",
        "begin", "end", "cdot", "times", "div", "pm", "mp", "left", "right", "in", "notin",
        "cup", "cap", "setminus", "subset", "infty", "pi", "le", "leq", "ge", "geq", "lt", "gt",
        "ne", "neq", "approx", "equiv", "sim", "circ", "to", "text", "mathbb", "mathcal",
        "mathrm", "mathbf", "lfloor", "rfloor", "lceil", "rceil", "langle", "rangle", "quad",
        "ldots", "cdots", "dots", "overline", "bar", "vec", "hat", "tilde", "perp", "parallel",
        "mod", "pmod",
    ]
)  # fmt: skip
_SPELLED = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
            "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_AMBIGUOUS = frozenset({"I", "\\gamma", "\\Gamma", "\\beta", "\\zeta"})


def with_plain_names(text: str) -> str:
    r"""The formula with every name that carries a mark as one symbol.

    >>> with_plain_names(r"E_{\text{1}}") == with_plain_names("E_1") != with_plain_names("e_1")
    True
    >>> with_plain_names("x'") == with_plain_names(r"x^{\prime}") != with_plain_names("x")
    True
    >>> with_plain_names(r"2x+\frac{y}{3}")
    '2x+\\frac{y}{3}'
    """
    text = _GLYPH.sub(lambda m: _GLYPHS[m.group()] + " " * (m.group()[-1].isalpha()), text)
    text = re.sub(r"\\(?:overrightarrow|vec)(?![A-Za-z])\s?(?=\{)", r"\\vec", text)
    text = re.sub(r"\\overrightarrow(?![A-Za-z])", r"\\vec", text)
    text = re.sub(r"\\(?:mathrm|text|operatorname)\s?\{\s?([eidj])\s?\}", r" \1 ", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _ASCII.sub(r"\\\g<word> ", text)
    text = _GEOMETRIC.sub(_of_points, text)
    text = _TRANSPOSED.sub(lambda m: symbol(f"({m[1]})^T"), text)
    text = re.sub(r"(_\s?\{?\s?)" + _WORD.pattern, _of_script, text)
    text = _WORD.sub(_of_word, text)
    # The grammar drops any other `^T`, also where T is an exponent.
    return _POWER_T.sub(lambda m: f"^{{{symbol('T')}}}", _NAME.sub(_of_name, text))


def symbol(name: str) -> str:
    """One symbol for a name, whatever its characters."""
    return " z_{" + "".join(f"{ord(char) % 1000:03d}" for char in name[:60]) + "} "


def _of_points(match: re.Match[str]) -> str:
    r"""`\angle PQR` is the angle `\angle RQP`, in a triangle the order says what corresponds."""
    points = re.findall(r"[A-Z]'*", match["points"])
    what = match["what"].replace("measured", "")
    if what == "angle" and len(points) == 3:
        points = min(points, points[::-1])
    return symbol(what + " ".join(points))


def _of_script(match: re.Match[str]) -> str:
    opening = match[1]
    inner = match[2].strip()
    return opening + inner if "{" in opening else f"_{{{inner}}}"


def _of_word(match: re.Match[str]) -> str:
    word = match[1].strip()
    if word in _FUNCTIONS:
        return f"\\{word} "
    return f" {word} " if len(word) < 2 or not word.isalpha() else symbol(word.lower())


def _of_name(match: re.Match[str]) -> str:
    head = match["head"]
    marks = [match[key] for key in ("sub", "prime", "sub2", "star", "arguments")]
    if (
        head.lstrip("\\") in _COMMANDS
        or (head == "e" and not (marks[0] or marks[2]))
        or (not any(marks) and head not in _AMBIGUOUS)
    ):
        return match.group()
    sub, prime, sub2, star, arguments = (_bare(mark or "") for mark in marks)
    sub = sub or sub2
    prime = prime.replace("\\prime", "'").replace("^", "")
    return symbol(f"{head}{'_' if sub else ''}{_SPELLED.get(sub, sub)}{prime}{star}{arguments}")


def _bare(mark: str) -> str:
    return re.sub(r"[{}\s_]|\\(?:text|mathrm|rm)(?![A-Za-z])", "", mark)
