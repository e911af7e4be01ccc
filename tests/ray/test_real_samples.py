"""From published files to verdicts in the store, while scripts/chaos.py kills parts of the run.

The tiny model knows none of these pictures; what counts is that each problem is asked, judged and
stored once, and that the broken row is named in the quarantine file.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lance
import pytest
import yaml

REPO = Path(__file__).parents[2]
DATA = REPO / "tests" / "data"
DEADLINE_S = 1800
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


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """(run directory, what chaos.py ended with) of a run that lost two of its parts."""
    directory = tmp_path_factory.mktemp("struck")
    run_dir, path = directory / "run", directory / "samples.yaml"
    path.write_text(yaml.safe_dump(config(run_dir, samples(directory))))
    chaos = [
        sys.executable, "scripts/chaos.py", "--kills", "2", "--between", "10", "20", "--targets",
        "rollout,verifier,trainer", str(path),
    ]  # fmt: skip
    done = subprocess.run(
        chaos, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    return run_dir, done


@pytest.mark.timeout(DEADLINE_S)
def test_chaos_in_a_short_form(struck):
    _, done = struck
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 0 problems" in done.stdout


def test_every_real_sample_is_explored_to_verdicts_in_the_store(struck):
    run_dir, done = struck
    assert done.returncode == 0
    quarantined = [
        json.loads(line)
        for line in (run_dir / "data" / "quarantine.jsonl").read_text().splitlines()
    ]
    (bad,) = quarantined
    assert (bad["row"], bad["kind"]) == (1, "image truncated") and "puzzlevqa" in bad["where"]
    columns = ["round", "problem_id", "source", "status", "verifier_version"]
    rows = lance.dataset(str(run_dir / "buffer.lance")).to_table(columns=columns).to_pylist()
    judged = Counter((row["round"], row["problem_id"]) for row in rows)
    assert set(judged.values()) == {2}, "two rollouts each"
    assert {row["status"] for row in rows} <= {"correct", "wrong", "no_answer", "truncated"}
    assert all(row["verifier_version"] for row in rows)
    of_round = {id for round, id in judged if round == 1}
    assert len(of_round) == 2 + 1 + 2 + 1 + 3 + 2, "of each sample, in the order of its parts"
