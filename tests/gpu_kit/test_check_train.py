"""The trainer's kit in miniature: it runs whole on a CPU, and each of its checks can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train_checks import attention, noise, resume
from train_checks.kit import Kit
from train_checks.scale import SMALL

from virgo_ray.train import attention as segments
from virgo_ray.train.batch import Batcher

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu" / "check_train.py"
BROKEN = Path(__file__).with_name("broken_check.py")
ALL_BUT_ONE_HEAD = (
    *("card", "fit/*", "attention/*", "head/64", "noise/*", "resume/*", "trace"),
    *("push/ipc", "push/broadcast", "push/killed"),  # push/sleep starts vLLM
)


def check(script: Path, out: Path, *rows: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), "--small", "--cpu", "--out", str(out), "--rows", *rows]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_one_broken_row_leaves_the_others_and_sets_the_exit_code(tmp_path):
    done = check(BROKEN, tmp_path, *ALL_BUT_ONE_HEAD)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    failed = [row["row"] for row in rows if row["status"] != "ok"]
    assert failed == ["head/64"], done.stdout
    assert "the two heads are" in rows[[r["row"] for r in rows].index("head/64")]["error"]
    assert len(rows) == 34 and all(row["figures"] for row in rows)
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == [r["row"] for r in rows]
    assert done.returncode == 1
    assert json.loads((tmp_path / "about.json").read_text())["card"] == "cpu"
    assert 0 < (tmp_path / "trace.json.gz").stat().st_size < 16 * 2**20


def test_a_check_without_a_fault_ends_with_0(tmp_path):
    done = check(SCRIPT, tmp_path, "head/64")
    assert done.returncode == 0, done.stdout


# -- each check, with what it guards broken ------------------------------------------------------


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("kit")
    yield Kit(SMALL, "cpu", directory, directory)
    torch.set_num_threads(num_threads)


def error_of(module: Any, kit: Kit, row: str) -> str:
    """What the row's check says; empty where it passes."""
    errors: dict[str, str] = {}

    def emit(row: str, figures: Mapping[str, Any], error: str = "", skipped: str = "") -> None:
        errors[row] = error

    module.run(kit, [row], emit)
    return errors[row]


@pytest.fixture
def packed_looks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(query, key, value, ends, longest, is_causal):
        return segments.attend_by_sdpa(query, key, value, ends, is_causal=False)

    monkeypatch.setattr(segments, "attend", attend)


@pytest.mark.usefixtures("packed_looks_ahead")
def test_packed_attention_that_looks_ahead_fails(kit):
    assert "away from" in error_of(attention, kit, "attention/decoder/varlen")


@pytest.mark.usefixtures("packed_looks_ahead")
def test_a_path_that_computes_something_else_is_more_than_noise(kit, monkeypatch):
    # The log-probabilities of a small random model hardly differ, whatever it attends to.
    monkeypatch.setattr(noise, "LARGEST_RMS", 0.01)
    assert error_of(noise, kit, "noise/eager_to_one_row") == ""
    assert "RMS" in error_of(noise, kit, "noise/varlen_to_one_row")


def test_distances_of_known_differences():
    found = noise.distances(torch.tensor([0.1, -0.3] * 256))
    assert found == pytest.approx(
        {"mean": 0.2, "rms": 0.05**0.5, "p99": 0.3, "max256": 0.3, "bias": -0.1}
    )


def test_a_vision_tower_that_mixes_windows_fails(kit, monkeypatch):
    def attend(query, key, value, ends, longest, is_causal):
        return segments.attend_by_sdpa(query, key, value, ends[[0, -1]], is_causal)

    monkeypatch.setattr(segments, "attend", attend)
    assert "away from float32" in error_of(attention, kit, "attention/vision/windows_varlen")


def test_a_dummy_picture_that_targets_can_see_fails(kit, monkeypatch):
    whole = Batcher.collate

    def behind_the_picture(self, examples):
        batch = whole(self, examples)
        return replace(batch, places=batch.places + 3)

    monkeypatch.setattr(Batcher, "collate", behind_the_picture)
    assert "vision gradient" in error_of(resume, kit, "resume/dummy_picture")


# DeepSpeed keeps the process groups of the first one that a process joins, and other tests may have
# joined one here: fits are tried in a process of their own. That the same rows pass where nothing
# is broken is in the first test.
def test_fits_that_do_not_go_on_and_weights_that_were_not_trained_fail():
    script = str(Path(__file__).with_name("broken_fits.py"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert "began again" in said["no checkpoint is found"]
    assert "apart after the checkpoint" in said["a checkpoint restores nothing"]
    assert "ZeRO-3 left" in said["an engine is kept"]
    assert "from the trainer" in said["other weights are published"]
