"""An optimizer that goes on from fit to fit: many short fits are one long one, from disk and in
memory."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_model
import train_ranks
from safetensors.torch import load_file

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.pack import pack
from virgo_ray.weights.manifest import read_manifest

LORA = {"lora": {"rank": 4, "alpha": 8.0}, "freeze_connector": True}
NUM_FITS = 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Path:
    path = tmp_path_factory.mktemp("carried")
    small_model.build(path / "model")
    train_ranks.draw_images(path)
    return path


def config(directory: Path, name: str, dtype: str = "float32", **train: Any) -> Config:
    usual = {"restart_from": "previous", "carry_optimizer": True, "schedule": "constant"}
    usual |= {"num_epochs": 1.0, "warmup_ratio": 0.0}
    cfg = train_ranks.config(directory, name, 1, **{**usual, **train})
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"dtype": dtype})})


def whole_plan(cfg: Config) -> Plan:
    directory = Path(cfg.model.path).parent
    return pack(train_ranks.examples(directory, cfg), cfg.train, random.Random(0))


def plan_of(cfg: Config, step: int) -> Plan:
    """The whole plan's step alone."""
    plan = whole_plan(cfg)
    return replace(plan, steps=plan.steps[step : step + 1])


def base_of(cfg: Config) -> Weights:
    return Weights(0, cfg.model.path)


def fit(
    trainer: TrainEngine, plan: Plan, start: Weights, notices: list[str] | None = None
) -> tuple[FitReport, list[dict[str, float]]]:
    steps: list[dict[str, float]] = []

    def listen(event: dict[str, Any]) -> None:
        steps.extend([event] if "step" in event else [])
        if notices is not None and "notice" in event:
            notices.append(event["notice"])

    report = trainer.fit(plan, start, start.version + 1, listen)
    trainer.settle()
    return report, steps


def fits(cfg: Config, is_new_process: bool) -> tuple[FitReport, list[dict[str, float]]]:
    """NUM_FITS of a step each, one after the other."""
    trainer, start = TrainEngine(cfg), base_of(cfg)
    steps: list[dict[str, float]] = []
    for t in range(NUM_FITS):
        if is_new_process:
            trainer.close()
            trainer = TrainEngine(cfg)
        report, found = fit(trainer, plan_of(cfg, t), start)
        start = report.weights
        steps += found
    trainer.close()
    return report, steps


def published(report: FitReport) -> dict[str, str]:
    files = read_manifest(Path(report.weights.path)).files
    return {n: f.sha256 for n, f in files.items() if n not in ("fit.json", "README.md")}


@pytest.mark.parametrize("train", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_fits_of_one_step_are_the_fit_of_all_their_steps(directory, stage, dtype, train):
    """In bfloat16, too: it is the float32 weights that go on, not the published ones."""
    name = f"c{stage}_{dtype}_{len(train)}"
    cfg = config(directory, name, dtype, zero_stage=stage, **train)
    whole, expected = fit(trainer := TrainEngine(cfg), whole_plan(cfg), base_of(cfg))
    trainer.close()
    one = config(directory, f"{name}_one", dtype, zero_stage=stage, **train)
    many, steps = fits(one, is_new_process=True)
    print(name, [s["loss"] for s in steps], [s["loss"] for s in expected])
    close = 1e-6 if dtype == "float32" else 1e-2
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in expected], abs=close)
    ours, theirs = (load_file(Path(r.weights.path) / "model.safetensors") for r in (many, whole))
    for key in theirs:
        print(key, float((ours[key].float() - theirs[key].float()).abs().max())) if dtype!="float32" else None
        assert ours[key].float().allclose(theirs[key].float(), atol=close, rtol=0)
    kept = config(directory, f"{name}_kept", dtype, zero_stage=stage, resident=True, **train)
    in_memory, same = fits(kept, is_new_process=False)
    assert [s["loss"] for s in same] == [s["loss"] for s in steps]
    assert published(in_memory) == published(many)
