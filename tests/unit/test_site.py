"""The documentation as a site: built without a warning, complete, and silent towards the network.

Also what holds for its pages: the width of their lines, the length of README.md, and that a
notebook runs.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from virgo_ray import cli
from virgo_ray.config.keys import by_section

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself; links that a reader follows are none of it.
FETCHED = re.compile(
    r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"?(https?:[^\" >]+)"
)
IS_NO_REQUEST = ("canonical", "next", "prev")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The directory of the site as `scripts/docs.sh` builds it."""
    place = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", place],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return place


def test_keys_and_commands_stand_in_the_site(site):
    keys = (site / "reference/keys.html").read_text()
    names = [key.name for section in by_section().values() for key in section]
    assert len(names) > 200 and not [n for n in names if f"<code>{n}</code>" not in keys]
    commands = (site / "reference/commands.html").read_text()
    assert not [name for name in cli.COMMANDS if f"usage: virgo-ray {name}" not in commands]


def test_docstrings_stand_in_the_site(site):
    page = (site / "reference/api.html").read_text()
    assert "virgo_ray.loop.run_rounds" in page and "NoProgressError" in page


def test_a_reader_makes_no_request_to_others(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    found = {url for page in pages for url in FETCHED.findall(page.read_text())}
    assert not found
    assert "fonts.googleapis" not in "".join(page.read_text() for page in pages)


def test_links_between_folders_are_led_through_the_site(site):
    assert 'href="how-to/cluster.html"' in (site / "index.html").read_text()
    assert 'href="../doctor.html"' in (site / "how-to/cluster.html").read_text()


def test_lines_of_pages_have_at_most_100_columns():
    done = subprocess.run(
        [sys.executable, "scripts/site/wrap.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"`python scripts/site/wrap.py` wraps\n{done.stdout}"


def test_a_long_line_is_wrapped_and_code_is_not(tmp_path):
    long, page = "word " * 30, tmp_path / "page.md"
    page.write_text(f"- {long}`{'a b ' * 5}`\n\n    {long}\n\n```\n{long}\n```\n| {long} |\n")
    command = [sys.executable, "scripts/site/wrap.py", str(page)]
    assert subprocess.run([*command, "--check"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    first, second, *others = page.read_text().splitlines()
    assert len(first) <= 100 and second.startswith("  word") and "`a b a b" in second
    assert others == ["", f"    {long}", "", "```", long, "```", f"| {long} |"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
