"""What the kits read from the docs and write into them, and what the bundle pins."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import node_check
import pytest
import record

from virgo_ray.config import load_config

TOP = Path(__file__).parents[2]
BUNDLE = TOP / "scripts" / "gpu" / "bundle.sh"
PAGE = f"""# Checks

- `T`: `echo tiny`

{node_check.HEAD}
|---|---|---|---|---|
| passes | 1 | it runs | `$T $RUNS > $RUNS/said` | not run |
| fails | 1 | it does not | `echo oh no; exit 3` | not run |
| large | 4 | more than there is | `false` | not run |
| cluster | by hand, 2 x 8 | somebody must | `false` | not run |

After the table | stands | more.
"""


@pytest.mark.parametrize("module", [node_check, record])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# -- a node's own checks ---------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node_check, "TOP", tmp_path)
    monkeypatch.setattr(node_check, "PACKAGES", ("torch",))
    monkeypatch.setattr(node_check, "cards", lambda: "1 x Card")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def cells(page: Path) -> dict[str, str]:
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[1:]}


def test_rows_that_fit_are_run_and_their_results_written(page, tmp_path):
    assert node_check.main(["1"], page) == 1  # one of them fails
    seen = cells(page)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, 1 x Card, torch [^:]+: passed in \d+ s", seen["passes"])
    assert "FAILED: exit code 3: oh no" in seen["fails"]
    assert seen["large"] == seen["cluster"] == "not run"
    (said,) = tmp_path.glob("runs/*/said")
    assert said.read_text() == f"tiny {said.parent}\n"
    assert page.read_text().endswith("After the table | stands | more.\n")


def test_only_named_rows_are_run(page):
    assert node_check.main(["8", "passes"], page) == 0
    assert cells(page)["fails"] == "not run"
    assert node_check.main(["8", "no_such_row"], page) == 2


def test_memory_that_is_not_given_back_fails_a_row(page, monkeypatch):
    used = iter([[100], *[[5000]] * 100])
    monkeypatch.setattr(node_check, "used_mib", lambda: next(used))
    monkeypatch.setattr(node_check, "PATIENCE_S", 0.0)
    assert node_check.main(["1", "passes"], page) == 1
    assert "4900 MiB of GPU memory were not given back" in cells(page)["passes"]


def test_the_pages_own_table_can_be_read_and_its_configs_are_valid(tmp_path):
    text = node_check.PAGE.read_text()
    known = node_check.read_abbreviations(text) | {"RUNS": str(tmp_path)}
    checks = node_check.read_checks(text)
    assert {check.num_gpus for check in checks} == {1, 2, 4, 8, None}
    configured = [c for c in checks if "$T" in c.command or "chaos.py" in c.command]
    assert len(configured) == 9
    for check in configured:
        command = check.command
        for _ in range(2):
            command = re.sub(r"\$([A-Z]+)", lambda m: known[m[1]], command)
        words = shlex.split(command)
        start = next(i for i, word in enumerate(words) if word.endswith(".yaml"))
        load_config(TOP / words[start], words[start + 1 :])


# -- results -----------------------------------------------------------------------------------


def test_a_section_is_added_above_the_older_ones(tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text(f"# Results\n\n{record.MARK}")
    out = tmp_path / "out"
    out.mkdir()
    rows = [
        {"row": "fit/a", "status": "ok", "seconds": 2.0, "figures": {"mfu": None}, "error": ""},
        {"row": "head/1", "status": "ok", "seconds": 1.0, "figures": {"ms": 0.12345}, "error": ""},
        {"row": "fit/b", "status": "failed", "seconds": 3.0, "figures": {}, "error": "out | of"},
    ]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for card in ("Old", "New"):
        about = {"date": "2026-01-02", "commit": "unknown", "card": card, "torch": "2.11.0"}
        (out / "about.json").write_text(json.dumps(about))
        argv = ["record.py", str(out), "--to", str(page), "--commit", "abc"]
        monkeypatch.setattr("sys.argv", argv)
        record.main()
    text = page.read_text()
    assert text.index("## New, 2026-01-02, commit abc") < text.index("## Old, ")
    assert "3 rows in 6 s: 1 failed, 2 ok." in text and "torch 2.11.0." in text
    assert "| fit/a | ok | 2.0 | - |\n| fit/b | failed: out / of | 3.0 | - |" in text
    assert "| head/1 | ok | 1.0 | 0.1235 |" in text


def test_the_page_of_results_can_be_added_to():
    assert record.MARK in record.RESULTS.read_text()


# -- the bundle --------------------------------------------------------------------------------


def pins(lines: list[str]) -> dict[str, str]:
    found = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower(): version for name, version in found}


def test_the_bundle_holds_the_versions_of_the_project():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    ours = pins(project["dependencies"])
    bundled = pins((TOP / "scripts" / "gpu" / "wheels.txt").read_text().splitlines())
    shared = ours.keys() & bundled.keys()
    assert shared == {"transformers", "deepspeed", "peft", "accelerate"}
    assert {name: ours[name] for name in shared} == {name: bundled[name] for name in shared}
    assert not {"ray", "vllm", "pylance", "torch"} & bundled.keys()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--python", "2.7"], "--python is '2.7'"),
        (["--torch", "2.9"], "--torch is '2.9'"),
        (["--max-mib", "many"], "--max-mib is 'many'"),
        (["--out"], "--out needs a value"),
        (["--all"], "unknown argument '--all'"),
    ],
)
def test_the_bundle_says_what_is_wrong_with_its_arguments(arguments, said):
    done = subprocess.run(["bash", str(BUNDLE), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
