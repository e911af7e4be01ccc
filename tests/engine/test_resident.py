"""A model that stays in memory between fits: nothing that comes out may tell, to the last bit."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import small_model
import train_ranks

from virgo_ray.config import Config, WeightsConfig
from virgo_ray.errors import DroppedWeightsError, TrainingError, WeightsError
from virgo_ray.model.dropped import is_remade
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.train import learning, loading
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.loss import weighted_nll
from virgo_ray.weights.manifest import check_weights, read_manifest
from virgo_ray.weights.probe import ProbeItem

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
    load = loading.load_model

    def watched(path: str, *rest: Any) -> Any:
        found.append(path)
        return load(path, *rest)

    monkeypatch.setattr(loading, "load_model", watched)
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
    shutil.rmtree(copy / "weights" / f"v{start.version + 1:04d}", ignore_errors=True)
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


def test_connectors_trained_beside_adapters_begin_from_rounded_values(directory):
    cfg = config(directory, "beside", "bfloat16", zero_stage=2, **BESIDE)
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, cfg, base_of(cfg))
    second, losses = fit(trainer, cfg, first.weights)
    expected, expected_losses = loaded_fit(cfg, first.weights)
    assert losses == expected_losses and published(second) == published(expected)
    third, losses = fit(trainer, cfg, second.weights)  # and once more, behind another engine
    expected, expected_losses = loaded_fit(cfg, second.weights)
    assert losses == expected_losses and published(third) == published(expected)
    trainer.close()


def test_it_loads_where_memory_holds_something_else(directory, loads, monkeypatch):
    made: list[weakref.ref[Any]] = []
    build = loading.TargetLogprobs

    def watched(*args: Any) -> Any:
        module = build(*args)
        made.append(weakref.ref(module))
        return module

    monkeypatch.setattr(loading, "TargetLogprobs", watched)
    cfg = config(directory, "elsewhere", zero_stage=2)
    trainer, base = TrainEngine(cfg), base_of(cfg)
    fit(trainer, cfg, base)
    trainer.fit(plan_of(cfg), base, 2)  # another start
    trainer.settle()
    assert loads == [base.path] * 2 and made[0]() is None
    trainer.probe_base(base, [ProbeItem((1, 2, 3), (4, 5), None)])
    assert loads == [base.path] * 3 and made[1]() is None
    second = Weights(2, str(Path(cfg.run_dir) / "weights" / "v0002"))
    fit(trainer, cfg, second)
    assert loads[3:] == [second.path]
    third = Weights(3, str(Path(cfg.run_dir) / "weights" / "v0003"))
    record = Path(third.path) / "fit.json"
    record.write_text(record.read_text().replace('"recipe": "', '"recipe": "x'))
    fit(trainer, cfg, third)  # the same place, not the same fit
    assert loads[4:] == [third.path]
    trainer.close()
    assert [ref() for ref in made] == [None] * 5


def test_what_is_held_goes_when_a_fit_raises(directory, loads, monkeypatch):
    cfg = config(directory, "raises", zero_stage=3)
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, cfg, base_of(cfg))
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="loss is nan"):
        patch.setattr(learning, "weighted_nll", lambda *a: weighted_nll(*a) * float("nan"))
        fit(trainer, cfg, first.weights)
    second, losses = fit(trainer, cfg, first.weights)
    expected, expected_losses = loaded_fit(cfg, first.weights)
    assert losses == expected_losses and published(second) == published(expected)
    trainer.close()


@pytest.mark.parametrize("train", [{}, LORA], ids=["full", "lora"])
def test_a_fit_that_is_done_again_gives_the_same_bits(directory, loads, train):
    """Versions 2 and 3 are not written; they are trained again from version 1."""
    cfg = config(directory, f"again{len(train)}", "bfloat16", zero_stage=2, **train)
    cfg = cfg.model_copy(update={"rounds": 9, "weights": WeightsConfig(publish_every=4)})
    trainer, starts, losses = TrainEngine(cfg), [base_of(cfg)], []
    for _ in range(3):
        report, found = fit(trainer, cfg, starts[-1])
        starts.append(report.weights)
        losses.append(found)
    assert loads == [base_of(cfg).path]
    sums = [read_manifest(Path(w.path), may_be_dropped=True).files for w in starts[1:]]
    for weights in starts[2:]:
        assert is_remade(Path(weights.path)) and not list(Path(weights.path).rglob("*.safetensors"))
    trainer.close()

    anew = TrainEngine(cfg)  # another process: nothing is in memory
    assert not anew.write_now(3)
    with pytest.raises(DroppedWeightsError, match="published without its tensors"):
        fit(anew, cfg, starts[3])
    for version in (2, 3):
        again: list[float] = []
        start = starts[version - 1]
        anew.fit(
            plan_of(cfg, start.version), start, version,
            lambda e, again=again: again.extend([e["loss"]] if "step" in e else []), is_again=True,
        )  # fmt: skip
        anew.settle()
        assert again == losses[version - 1]
    assert [check_weights(w.path).files for w in starts[1:]] == sums
    anew.close()


def test_tensors_are_written_now_where_they_are_still_in_memory(directory):
    cfg = config(directory, "now", zero_stage=2)
    cfg = cfg.model_copy(update={"rounds": 9, "weights": WeightsConfig(publish_every=4)})
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, cfg, base_of(cfg))
    second, _ = fit(trainer, cfg, first.weights)
    expected = read_manifest(Path(second.weights.path), may_be_dropped=True)
    trainer.release()
    assert trainer.write_now(1) and trainer.write_now(2)
    assert check_weights(second.weights.path) == expected
    trainer.close()


def refuse(*_: Any) -> Any:
    raise MemoryError


def test_another_fit_is_not_taken_for_the_one_that_was_lost(directory, monkeypatch):
    cfg = config(directory, "other", zero_stage=2)
    cfg = cfg.model_copy(update={"rounds": 9, "weights": WeightsConfig(publish_every=4)})
    trainer = TrainEngine(cfg)
    first, _ = fit(trainer, cfg, base_of(cfg))
    fit(trainer, cfg, first.weights)
    assert trainer._publisher._unwritten is not None
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(loading, "load_model", refuse)
        trainer.fit(plan_of(cfg, 1), first.weights, 3)
    assert trainer._publisher._unwritten is None, "it goes before a model is loaded beside it"
    trainer.close()
    changed = cfg.model_copy(update={"train": cfg.train.model_copy(update={"lr": 1e-4})})
    with pytest.raises(WeightsError, match="cannot be trained again as it was"):
        TrainEngine(changed).fit(plan_of(cfg, 1), first.weights, 2, is_again=True)
