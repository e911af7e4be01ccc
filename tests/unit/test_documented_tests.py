"""Every test that a page names as holding something is there."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = re.compile(r"(tests/[\w/]+\.py)?(?:::(test_\w+))?")


def references(text):
    """(file, test) that a page names; `::test_x` is of the file before it, "" is a whole file."""
    found, file = [], ""
    for span in re.findall(r"`([^`\n]+)`", text):
        span = span.partition("[")[0]  # one case of several
        named = REFERENCE.fullmatch(span)
        if named and span:
            file = named[1] or file
            found.append((file, named[2] or ""))
    return found


@cache
def named_in(file):
    path = ROOT / file
    return re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE) if path.exists() else None


def missing_in(text):
    return [
        f"{file}::{test}"
        for file, test in references(text)
        if named_in(file) is None or (test and test not in named_in(file))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page):
    assert not missing_in(page.read_text())


def test_every_kind_of_wrong_data_names_a_test():
    rows = (ROOT / "docs/data-kinds.md").read_text().splitlines()
    kinds = [row for row in rows if row.startswith("| ") and "what is wrong" not in row]
    assert len(kinds) >= 40
    assert not [row for row in kinds if not references(row.rpartition("|")[0].rpartition("|")[2])]


@pytest.mark.parametrize(
    ("text", "missing"),
    [("held by `tests/unit/test_none.py::test_x`", ["tests/unit/test_none.py::test_x"]),
     ("`tests/unit/test_documented_tests.py::test_that_is_not_there`",
      ["tests/unit/test_documented_tests.py::test_that_is_not_there"]),
     ("`tests/unit/test_documented_tests.py`, `::test_tests_that_a_page_names_exist`", [])],
)  # fmt: skip
def test_a_test_that_is_not_there_is_found(text, missing):
    assert missing_in(text) == missing
