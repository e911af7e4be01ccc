"""Findings as a page of 80 columns, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from virgo_ray.doctor.findings import Finding, Status

WIDTH = 80
NAME_WIDTH = 14
STATUS_WIDTH = 13
INDENT = " " * (NAME_WIDTH + STATUS_WIDTH)


def lines_of(finding: Finding) -> str:
    """One finding; the advice stands on lines of its own."""
    head = f"{finding.name:<{NAME_WIDTH}}{finding.status:<{STATUS_WIDTH}}"
    lines = _wrapped(finding.text, head)
    if finding.advice:
        lines += _wrapped(f"-> {finding.advice}", INDENT)
    return "\n".join(lines)


def last_line(findings: Iterable[Finding]) -> str:
    """How many there are of each kind."""
    found = list(findings)
    counts = Counter(f.status for f in found)
    idle = sum(f.status is Status.NOT_CHECKED and not f.is_needed for f in found)
    words = f"{counts[Status.OK]} ok, {counts[Status.TO_DO]} to do, "
    words += f"{counts[Status.NOT_CHECKED]} not checked"
    return f"{words} ({idle} of them not needed)" if idle else words


def as_json(findings: Iterable[Finding]) -> str:
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def _wrapped(text: str, head: str) -> list[str]:
    """Lines of a table stay lines. Paths are not broken: a line may be longer for one."""
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(
            line, WIDTH, initial_indent=INDENT if lines else head, subsequent_indent=INDENT,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return lines
