"""Whether reinforcement learns: rewards that are right, turned round, and of nothing, side by side.

Fits and groups are those of a run; samples are drawn by plain transformers. The start are the
bundled weights after a fit on seed thoughts, as after round 0 of configs/tiny.yaml.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from virgo_ray.config import load_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Weights
from virgo_ray.selection.streams import stream
from virgo_ray.tiny.puzzles import make_puzzles
from virgo_ray.tiny.thoughts import long_thought
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.pack import pack

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import compare_objectives  # noqa: E402

ROUNDS = 4
# A standard error of a share of 256 rollouts about 32 problems is some 4 points; arms are paired.
LEAST_GAP = 0.05


def after_round_0(folder: Path) -> Weights:
    cfg = load_config(
        str(ROOT / "configs/tiny.yaml"), [f"run_dir={folder / 'round0'}", "train.num_workers=1"]
    )
    prompter = Prompter(cfg.model, cfg.prompt)
    num = cfg.data.seed_thoughts.num or 0
    seeds = [
        prompter.example(p.id, Problem(p.id, p.question, p.answer, context=p.text), long_thought(p))
        for p in make_puzzles("seed", num, cfg.seed)
    ]
    engine = TrainEngine(cfg)
    plan = pack(seeds, cfg.train, stream(0, 0, "pack"))
    report = engine.fit(plan, Weights(0, str(TINY_DIRECTORY)), 1)
    engine.settle()
    engine.close()
    return report.weights


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_right_rewards_raise_what_is_right_and_turned_ones_lower_it(tmp_path, one_rank):
    start = after_round_0(tmp_path)
    cfg = load_config(
        str(ROOT / "configs/tiny_grpo.yaml"),
        [f"model.path={start.path}", "data.train.extra_cells=0", "explore.num_problems=32"],
    )
    problems = compare_objectives.read_problems(cfg.data.train, 0, tmp_path)
    args = argparse.Namespace(
        arms=["grpo", "shuffled", "flipped"], rounds=ROUNDS, out=str(tmp_path), evaluate=False
    )
    sampling = compare_objectives.Sampling(cfg)
    compare_objectives.run_seed(cfg, 0, sampling, problems, [], args)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    last = {line["arm"]: line["reward"] for line in lines if line["event"] == "last"}
    assert last["grpo"] > last["shuffled"] + LEAST_GAP, last
    assert last["flipped"] < last["shuffled"] - LEAST_GAP, last
