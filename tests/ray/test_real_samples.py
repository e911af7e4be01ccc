"""From published files to verdicts in the store: every real sample explored, one row broken.

The tiny model knows none of these pictures; what counts is that each problem is asked, judged and
stored, and that the broken row is named in the quarantine file.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import lance
import pytest
import yaml

REPO = Path(__file__).parents[2]
DATA = REPO / "tests" / "data"
DEADLINE_S = 600
PICTURES = ("puzzlevqa", "algopuzzlevqa", "easyvqa", "logicvista", "mathv")
SAMPLING = {"max_tokens": 24}


def samples(directory):
    """A source of all samples, copied, with one picture cut off."""
    for name in PICTURES:
        shutil.copytree(DATA / name, directory / name)
    broken = directory / "puzzlevqa" / first_row(directory / "puzzlevqa")["image"]
    broken.write_bytes(broken.read_bytes()[:-60])
    readers = {"mathv": "mathvision"}
    files = [(readers.get(name, "jsonl"), directory / name / "data.jsonl") for name in PICTURES]
    parts = [{"reader": r, "path": str(p)} for r, p in files]
    words = {"reader": "jsonl", "path": str(DATA / "text_problems" / "gsm8k_train.jsonl")}
    return {"reader": "mix", "parts": [*parts, {**words, "text_only": True}]}


def first_row(directory):
    return json.loads((directory / "data.jsonl").read_text().splitlines()[0])


def config(run_dir, source):
    heldout = DATA / "text_problems" / "math500.jsonl"
    whole = {"split": "", "num": None}  # not the share that tiny.yaml takes of its puzzles
    return {
        "include": str(REPO / "configs" / "tiny.yaml"),
        "run_dir": str(run_dir),
        "rounds": 1,
        "gates": None,
        "model": {"max_length": 1024, "max_pixels": 16384},
        "data": {
            "strict": False,
            "train": {**source, **whole},
            "heldout": {"reader": "jsonl", "path": str(heldout), "text_only": True, **whole},
            "seed_thoughts": {"num": 8},
        },
        "explore": {"num_problems": 20, "num_samples": 2, "sampling": SAMPLING},
        "rollout": {"num_workers": 1},
        "train": {"num_epochs": 1, "batch_size": 2, "micro_batch_tokens": 2048},
        "evaluate": {"k": 2, "sampling": SAMPLING},
        "wandb": {"mode": "offline"},
    }


@pytest.mark.timeout(DEADLINE_S)
def test_every_real_sample_is_explored_to_verdicts_in_the_store(tmp_path):
    run_dir, source = tmp_path / "run", samples(tmp_path)
    path = tmp_path / "samples.yaml"
    path.write_text(yaml.safe_dump(config(run_dir, source)))
    done = subprocess.run(
        [sys.executable, "-m", "virgo_ray.run", str(path)],
        cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    quarantined = [
        json.loads(line)
        for line in (run_dir / "data" / "quarantine.jsonl").read_text().splitlines()
    ]
    (bad,) = quarantined
    assert (bad["row"], bad["kind"]) == (1, "image truncated") and "puzzlevqa" in bad["where"]
    columns = ["problem_id", "source", "status", "verifier_version"]
    rows = lance.dataset(str(run_dir / "buffer.lance")).to_table(columns=columns).to_pylist()
    judged = {row["problem_id"] for row in rows}
    assert len(rows) == 2 * len(judged), "two rollouts each"
    assert {row["status"] for row in rows} <= {"correct", "wrong", "no_answer", "truncated"}
    assert all(row["verifier_version"] for row in rows)
    assert len(judged) == 2 + 1 + 2 + 1 + 3 + 2, "of each sample, in the order of its parts"
