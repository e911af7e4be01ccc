"""The tutorial for real: its pictures, its config, its figure.

The short form stops after round 0, which learns from thoughts in words and answers about pictures.
The whole of it, with the rounds of self-distillation, is marked slow.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = (
    "rounds=0", "data.heldout.num=40", "data.seed_thoughts.num=320", "evaluate.k=1",
    "evaluate.blank_image=false", "wandb.mode=disabled",
)  # fmt: skip


def run_tutorial(place, *overrides):
    """Do what the page says in a directory of its own; the rounds as report.json has them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    config = str(ROOT / "docs/tutorial/shapes.yaml")
    for command in (
        [str(ROOT / "docs/tutorial/draw.py"), "my_data"],
        ["-m", "virgo_ray.run", config, *overrides],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=place, env=env, capture_output=True, text=True,
            timeout=1500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((place / "runs/shapes/report.json").read_text())["rounds"]


@pytest.mark.timeout(1800)
def test_the_short_form_learns_to_think_about_pictures(tmp_path):
    base, first = run_tutorial(tmp_path, *SHORT)
    assert base["pass_at_1"] < 0.4 and first["pass_at_1"] >= 0.6
    assert base["mean_thought_tokens"] < 20 < 60 < first["mean_thought_tokens"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_tutorial_ends_with_the_figure_of_its_page(tmp_path):
    rounds = [r["pass_at_1"] for r in run_tutorial(tmp_path, "wandb.mode=disabled")]
    assert rounds[0] < 0.4 and rounds[1] >= 0.6 and rounds[-1] >= 0.9
