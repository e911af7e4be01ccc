"""A model that stays in memory between fits: nothing that comes out may tell, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import small_model
import train_ranks

from virgo_ray.config import Config
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.train import engine as engine_module
from virgo_ray.train.engine import TrainEngine
from virgo_ray.weights.manifest import read_manifest

LORA = {"lora": {"rank": 4, "alpha": 8.0}, "freeze_connector": True}
# A connector that is trained beside adapters has masters of its own.
BESIDE = {"lora": {"rank": 4, "alpha": 8.0}}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Path:
    path = tmp_path_factory.mktemp("resident")
    small_model.build(path / "model")
    train_ranks.draw_images(path)
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that fits load from, while the test goes on."""
    found: list[str] = []
    load = engine_module.load_model

    def watched(path: str, *rest: Any) -> Any:
        found.append(path)
        return load(path, *rest)

    monkeypatch.setattr(engine_module, "load_model", watched)
    return found


def config(directory: Path, name: str, dtype: str = "float32", **train: Any) -> Config:
    usual = {"restart_from": "previous", "resident": True, "num_epochs": 0.7}
    cfg = train_ranks.config(directory, name, 1, **{**usual, **train})
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"dtype": dtype})})


def base_of(cfg: Config) -> Weights:
    return Weights(0, cfg.model.path)


def plan_of(cfg: Config, start: int = 0) -> Plan:
    """Other examples for every version, as in a run."""
    directory = Path(cfg.model.path).parent
    examples = train_ranks.examples(directory, cfg)
    return train_ranks.pack(examples[start:], cfg.train, train_ranks.random.Random(start))


def fit(trainer: TrainEngine, cfg: Config, start: Weights) -> tuple[FitReport, list[float]]:
    losses: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        losses.extend([event["loss"]] if "step" in event else [])

    plan = plan_of(cfg, start.version)
    report = trainer.fit(plan, start, start.version + 1, listen)
    trainer.settle()
    return report, losses


def loaded_fit(cfg: Config, start: Weights) -> tuple[FitReport, list[float]]:
    """The same fit in a copy of the run, by a trainer that has nothing in memory."""
    copy = Path(cfg.run_dir).with_name(f"{Path(cfg.run_dir).name}_loaded_{start.version}")
    shutil.copytree(cfg.run_dir, copy)
    train = cfg.train.model_copy(update={"resident": False})
    cfg = cfg.model_copy(update={"run_dir": str(copy), "train": train})
    path = start.path if start.version == 0 else str(copy / "weights" / f"v{start.version:04d}")
    return fit(TrainEngine(cfg), cfg, Weights(start.version, path))


def published(report: FitReport) -> dict[str, str]:
    """Checksums of what was published, but for the records that hold times."""
    files = read_manifest(Path(report.weights.path)).files
    return {n: f.sha256 for n, f in files.items() if n not in ("fit.json", "README.md")}


@pytest.mark.parametrize("train", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resident_fit_is_bit_for_bit_the_fit_that_loads(directory, loads, stage, dtype, train):
    name = f"r{stage}_{dtype}_{len(train)}"
    cfg = config(directory, name, dtype, zero_stage=stage, **train)
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, cfg, base_of(cfg))
    assert len(loads) == 1
    expected, expected_losses = loaded_fit(cfg, first.weights)
    del loads[:]
    trainer.release()  # on CPUs, too: stages 1 and 2 offload and reload, the others free
    second, losses = fit(trainer, cfg, first.weights)
    assert bool(loads) == (stage in (0, 3))
    assert losses == expected_losses and len(losses) > 1
    assert published(second) == published(expected)
    trainer.close()
