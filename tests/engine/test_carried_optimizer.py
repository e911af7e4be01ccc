"""An optimizer that goes on from fit to fit: many short fits are one long one, from disk and in
memory."""

from __future__ import annotations

import random
import shutil
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


ALL = [(s, d, n) for s in (0, 1, 2, 3) for d in ("float32", "bfloat16") for n in ("full", "lora")]
QUICK = [(3, "bfloat16", "lora")]
CASES = [c if c in QUICK else pytest.param(*c, marks=pytest.mark.slow) for c in ALL]


@pytest.mark.parametrize(("stage", "dtype", "kind"), CASES)
def test_fits_of_one_step_are_the_fit_of_all_their_steps(directory, stage, dtype, kind):
    """In bfloat16, too: it is the float32 weights that go on, not the published ones."""
    name, train = f"{stage}_{dtype}_{kind}", LORA if kind == "lora" else {}
    cfg = config(directory, name, dtype, zero_stage=stage, **train)
    trainer = TrainEngine(cfg)
    whole, expected = fit(trainer, whole_plan(cfg), base_of(cfg))
    trainer.close()
    one = config(directory, f"{name}_one", dtype, zero_stage=stage, **train)
    many, steps = fits(one, is_new_process=True)
    assert [s["lr"] for s in steps] == [s["lr"] for s in expected]
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in expected], abs=1e-5)
    assert difference(many, whole) <= 1e-6
    kept = config(directory, f"{name}_kept", dtype, zero_stage=stage, resident=True, **train)
    in_memory, same = fits(kept, is_new_process=False)
    assert [s["loss"] for s in same] == [s["loss"] for s in steps]
    assert published(in_memory) == published(many)


def difference(ours: FitReport, theirs: FitReport) -> float:
    """The largest, of all tensors."""
    one, other = (load_file(Path(r.weights.path) / "model.safetensors") for r in (ours, theirs))
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in other)


@pytest.mark.slow
def test_without_it_many_fits_are_not_the_long_one(directory):
    """What the test above would see, if nothing went on."""
    cfg = config(directory, "long")
    trainer = TrainEngine(cfg)
    whole, _ = fit(trainer, whole_plan(cfg), base_of(cfg))
    trainer.close()
    many, _ = fits(config(directory, "short", carry_optimizer=False), is_new_process=False)
    assert difference(many, whole) > 1e-4


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_stopped_anywhere_and_resumed_it_is_the_same_to_the_last_bit(directory, stop_at):
    """The second fit of two steps is stopped after one of them, after its checkpoint, and after
    it left its optimizer but before it was published."""
    cfg = config(directory, f"whole{stop_at}", zero_stage=2, resident=True, checkpoint_every_s=1e-9)
    start, plan = two_fits(cfg)
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, start, base_of(cfg))
    second, expected = fit(trainer, plan, first.weights)
    trainer.close()
    again = config(directory, f"stopped{stop_at}", zero_stage=2, checkpoint_every_s=1e-9)
    first, _ = fit(TrainEngine(again), start, base_of(again))
    seen: dict[float, float] = {}

    def stop(event: dict[str, Any]) -> None:
        if "step" in event:
            seen[event["step"]] = event["loss"]
            if event["step"] == stop_at:
                raise train_ranks.Interrupted

    with pytest.raises(train_ranks.Interrupted):
        TrainEngine(again).fit(plan, first.weights, 2, stop)
    done, steps = fit(TrainEngine(again), plan, first.weights)
    seen |= {s["step"]: s["loss"] for s in steps}
    assert [seen[n] for n in (1, 2)] == [s["loss"] for s in expected]
    assert done.resumed_from_step == (1 if stop_at == 2 else 0)
    assert published(done) == published(second)


def two_fits(cfg: Config) -> tuple[Plan, Plan]:
    plan = whole_plan(cfg)
    return replace(plan, steps=plan.steps[:1]), replace(plan, steps=plan.steps[1:3])


def test_one_plan_of_the_learning_rate_reaches_over_all_fits(directory):
    cfg = config(directory, "rates", schedule="linear", schedule_steps=NUM_FITS, warmup_ratio=0.3)
    _, steps = fits(cfg, is_new_process=True)
    assert [s["lr"] / cfg.train.lr for s in steps] == pytest.approx([1, 2 / 3, 1 / 3])
    with pytest.raises(TrainingError, match="schedule_steps=3 with 3 steps made and 1 in this fit"):
        fit(TrainEngine(cfg), plan_of(cfg, 0), version_of(cfg, NUM_FITS))


def version_of(cfg: Config, version: int) -> Weights:
    return Weights(version, str(Path(cfg.run_dir) / "weights" / f"v{version:04d}"))


def test_it_begins_anew_and_says_why_or_refuses(directory):
    cfg = config(directory, "anew", carry_optimizer=False)
    first, _ = fit(TrainEngine(cfg), plan_of(cfg, 0), base_of(cfg))
    carrying = config(directory, "anew")
    said: list[str] = []
    second, _ = fit(TrainEngine(carrying), plan_of(cfg, 1), first.weights, said)
    assert any("trained without train.carry_optimizer" in text for text in said)
    frozen = config(directory, "anew", freeze_connector=True)
    del said[:]
    fit(TrainEngine(frozen), plan_of(cfg, 2), second.weights, said)
    assert any("other parameters are trained now" in text for text in said)
    staged = config(directory, "anew", zero_stage=3)
    with pytest.raises(TrainingError, match="set these keys of `train` back"):
        fit(TrainEngine(staged), plan_of(cfg, 0), second.weights)
    (left,) = (Path(cfg.run_dir) / "optimizer" / "v0002").glob("fit_*/step_*")
    damaged = next(left.glob("*optim_states.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.rmtree(Path(cfg.run_dir) / "weights" / "v0003")
    with pytest.raises(TrainingError, match=r"cannot be carried on: .* is damaged"):
        fit(TrainEngine(carrying), plan_of(cfg, 2), second.weights)
    shutil.rmtree(left)
    with pytest.raises(TrainingError, match="begin the optimizer anew"):
        fit(TrainEngine(carrying), plan_of(cfg, 2), second.weights)
