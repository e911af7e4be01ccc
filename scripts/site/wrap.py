"""Wraps the sentences of README.md, docs/ and cluster/README.md at 100 columns.

    python scripts/site/wrap.py [--check] [PAGE ...]

Code, tables, headings and lines of one word are left alone, and so is every paragraph that fits. A
code span is never broken: tests read pages by lines. With --check nothing is written, and the exit
code is 1 if a line is too long. Knows no other Markdown than these pages use.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIDTH = 100
WORD = re.compile(r"(?:`[^`]*`|[^\s`])+")  # with the code spans in it, which hold blanks
ITEM = re.compile(r"( *)([-*] |\d+\. |)")  # how a line is indented, and the mark of a list
# Tables, headings, pictures, HTML, fences, empty lines.
OTHER = re.compile(r"\s*(\||#|!\[|<|:::|```|$)")
# A blank before what would begin a list or a heading if it stood first in a line.
BEFORE_MARK = re.compile(r" (?=([-*+#|]+|\d+\.)( |$))")
GLUE = "\0"  # in place of such a blank


def pages() -> list[Path]:
    """All pages that are wrapped; a script writes docs/gpu-results.md."""
    docs = sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name != "gpu-results.md")
    return [ROOT / "README.md", ROOT / "cluster/README.md", *docs]


def wrapped(text: str) -> str:
    """The page with its long paragraphs wrapped.

    >>> print(wrapped("- " + "word " * 19 + "`a b` c"), end="")
    - word word word word word word word word word word word word word word word word word word word
      `a b` c
    """
    lines: list[str] = []
    for block, is_text in blocks(text.splitlines()):
        lines += fill(block) if is_text and any(map(is_too_long, block)) else block
    return "\n".join(lines) + "\n"


def blocks(lines: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Paragraphs and items of lists, each whole (True); every other line alone (False)."""
    block: list[str] = []
    is_fenced = is_code = False
    before = ""
    for line in lines:
        is_indented = line.startswith("    ")
        goes_on = is_code and not line.strip()
        is_code = goes_on or (is_indented and (is_code or begins_code(before)))
        is_kept = is_fenced or is_code or bool(OTHER.match(line))
        if block and (is_kept or ITEM.match(line)[2]):  # type: ignore[index]
            yield block, True
            block = []
        if is_kept:
            yield [line], False
        else:
            block.append(line)
        is_fenced ^= line.lstrip().startswith("```")
        before = line
    if block:
        yield block, True


def begins_code(before: str) -> bool:
    """Whether indented text after this line is code, or the options of a `:::`."""
    return not before.strip() or before.startswith(":::")


def is_too_long(line: str) -> bool:
    """Whether it could be shorter: a link may be as long as it likes."""
    return len(line) > WIDTH and len(WORD.findall(line)) > 2


def fill(block: list[str]) -> list[str]:
    """A paragraph in lines of WIDTH, those of an item under its text."""
    indent, mark = ITEM.match(block[0]).groups()  # type: ignore[union-attr]
    said = " ".join(line.strip() for line in block).removeprefix(mark)
    words = [word.replace(GLUE, " ") for word in WORD.findall(BEFORE_MARK.sub(GLUE, said))]
    lines, line, hanging = [], indent + mark + words[0], indent + " " * len(mark)
    for word in words[1:]:
        if len(line) + 1 + len(word) <= WIDTH:
            line += f" {word}"
        else:
            lines.append(line)
            line = hanging + word
    return [*lines, line]


def main() -> int:
    parser = argparse.ArgumentParser(description="Wrap the pages of the documentation.")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="default: all")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    changed = []
    for page in args.pages or pages():
        text = page.read_text("utf-8")
        if (shorter := wrapped(text)) != text:
            changed.append(str(page))
            if not args.check:
                page.write_text(shorter, "utf-8")
    print("\n".join(changed))
    return 1 if changed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
