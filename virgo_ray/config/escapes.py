r"""Escapes that were read: `"\frac"` in hand-written JSON is a form feed and `rac`.

JSON and YAML in double quotes turn `\b`, `\f`, `\n`, `\r`, `\t` (YAML also `\a`, `\e`, `\v`) into
control characters, so a LaTeX command loses its head without an error. Control characters that no
text needs are refused; a tab, a newline or a return is one of them where what follows makes it a
LaTeX command.
"""

from __future__ import annotations

import re

ESCAPES = {"\a": "a", "\b": "b", "\x1b": "e", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SHORT = 60  # characters of a text that is one formula
# The rest of common commands that begin with t, n or r. Rests of one or two letters are also words
# ("o", "i", "an"), or variables at the beginning of a line.
_RESTS = {
    "\t": "heta|imes|ext(?:bf|it|rm)?|riangle|frac|ilde|herefore|an|anh|au|op|o",
    "\n": "abla|eq|parallel|mid|otin|exists|subseteq|ewline|earrow|u|e|i|ot",
    "\r": "ho|ight(?:arrow)?|angle|ceil|floor|m",
}
_LONG = "|".join(
    rf"{char}(?:{'|'.join(rest for rest in rests.split('|') if len(rest) > 2)})(?![a-z])"
    for char, rests in _RESTS.items()
)
_ANYWHERE = re.compile(_LONG)
_IN_MATHEMATICS = re.compile("|".join(f"{c}(?:{rests})(?![a-z])" for c, rests in _RESTS.items()))
_MATHEMATICS = re.compile(r"\$[^$]{1,2000}\$|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)


def find_control(text: str) -> str:
    r"""What is wrong with a text that holds a control character; empty where nothing is.

    Tabs, newlines and returns are none of them.

    >>> find_control("\frac{1}{2}")
    "the control character U+000C before 'rac{1}{2}': probably \\frac; write \\\\frac in the file"
    """
    found = _CONTROL.search(text)
    return _explain(text, found.start()) if found else ""


def find_command(text: str, is_mathematics: bool = False) -> str:
    r"""What is wrong where a tab, newline or return stands for the head of a LaTeX command.

    `is_mathematics`: the text is a gold answer or an option; elsewhere only what stands between
    mathematics' delimiters counts.

    >>> find_command("the angle $\theta$")
    "the control character U+0009 before 'heta$': probably \\theta; write \\\\theta in the file"
    >>> find_command("two\tcolumns\nand rows"), find_command("\theta", is_mathematics=True)[-8:]
    ('', 'the file')
    """
    areas = [(0, len(text))] if is_mathematics else _areas(text)
    for start, end in areas:
        found = _commands_in(text[start:end]).search(text, start, end)
        if found:
            return _explain(text, found.start())
    return ""


def _areas(text: str) -> list[tuple[int, int]]:
    return [area.span() for area in _MATHEMATICS.finditer(text)]


def _commands_in(formula: str) -> re.Pattern[str]:
    """Short commands count in one short line only: a displayed formula begins a line with `u`."""
    is_line = len(formula) <= SHORT and sum(map(formula.count, _RESTS)) == 1
    return _IN_MATHEMATICS if is_line and not formula.startswith("\\[") else _ANYWHERE


def _explain(text: str, place: int) -> str:
    """Name the character, what follows, and what was probably written."""
    char, rest = text[place], text[place + 1 : place + 13]
    said = f"the control character U+{ord(char):04X} before {rest!r}"
    word = re.match(r"[A-Za-z]{1,12}", rest)
    if char not in ESCAPES or word is None:
        return f"{said}; expected text: take it out"
    command = f"\\{ESCAPES[char]}{word.group()}"
    return f"{said}: probably {command}; write \\{command} in the file"
