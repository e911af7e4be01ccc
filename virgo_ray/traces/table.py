"""Tables on the console: ruled on a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Transitions = Sequence[tuple[str, str, int]]  # status before, status after, rollouts

WIDTH = 100
# Text of a model may hold codes that move a cursor or rename a window, and others that show a line
# in another order than it has.
_ORDER = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = {n: None for n in (*range(32), *range(127, 160), *_ORDER) if chr(n) not in "\n\t"}


def new_console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=max(found.width, WIDTH))


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Words to the left, numbers to the right (a column is what its first cell is)."""
    if title:
        console.print(Text(title))
    table = Table(
        box=box.SIMPLE if console.is_terminal else None,
        padding=(0, 2, 0, 0) if not console.is_terminal else (0, 1),
    )
    for position, name in enumerate(columns):
        is_number = bool(rows) and not isinstance(rows[0][position], str)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console.print(table)
    console.print()


def shown(cell: object) -> str:
    """Fractions as percentages, counts with separators, text without control characters."""
    if isinstance(cell, float):
        return f"{cell:.1%}"
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))


def printable(text: str) -> str:
    """
    >>> printable("a\\x1b[2Jb\\tc")
    'a[2Jb\\tc'
    """
    return text.translate(_CONTROL)


def sort_transitions(counted: Counter[tuple[str, str]]) -> Transitions:
    """The most frequent first; the order does not depend on that of counting."""
    found = [(str(before), str(after), num) for (before, after), num in counted.items()]
    return sorted(found, key=lambda row: (-row[2], row))


def describe_transitions(rows: Transitions) -> list[dict[str, str | int]]:
    """As JSON."""
    return [{"from": before, "to": after, "rollouts": num} for before, after, num in rows]
