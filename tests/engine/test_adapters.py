"""Adapters from round to round: float32 beside the merged weights, for real on one rank."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
import train_ranks
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.model.dropped import DroppedNote
from virgo_ray.records import Weights
from virgo_ray.train import liger, zero
from virgo_ray.train.adapters import find_masters
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.job import fingerprint_weights
from virgo_ray.weights.manifest import check_weights, loaded_files

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    small_model.build(path / "model")
    train_ranks.draw_images(path)
    return path


@pytest.fixture(scope="module")
def first(directory: Path) -> Weights:
    """Adapters on the base, trained for a round."""
    return fit(config(directory, "first"), Weights(0, str(directory / "model")), 1)[0]


@pytest.fixture
def run(directory: Path, first: Weights, tmp_path: Path) -> Weights:
    """A copy of that run in another place."""
    shutil.copytree(Path(first.path).parents[1], tmp_path / "run")
    return Weights(1, str(tmp_path / "run" / "weights" / "v0001"))


def config(directory: Path, name: str, run: Weights | None = None, **train: Any) -> Config:
    usual = {"lora": LORA, "restart_from": "previous", "num_epochs": 1.0, "freeze_connector": True}
    cfg = train_ranks.config(directory, name, 1, **{**usual, **train})
    model = cfg.model.model_copy(update={"dtype": "bfloat16"})
    run_dir = str(Path(run.path).parents[1]) if run else cfg.run_dir
    return cfg.model_copy(update={"model": model, "run_dir": run_dir})


def fit(cfg: Config, start: Weights, version: int) -> tuple[Weights, list[str]]:
    """What was published, and the notices on the way."""
    events: list[dict[str, Any]] = []
    plan = train_ranks.plan(Path(cfg.model.path).parent, cfg)
    report = train_ranks.fit_whole(TrainEngine(cfg), plan, start, version, events.append)
    return report.weights, [e["notice"] for e in events if "notice" in e]


def masters(weights: Weights) -> dict[str, torch.Tensor]:
    return load_file(Path(weights.path) / "adapters" / "adapters.safetensors")


def named(path: str) -> dict[str, torch.Tensor]:
    """By the names of parameters, which are not those on disk."""
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def tensors(path: str) -> dict[str, torch.Tensor]:
    (file,) = loaded_files(Path(path))
    return load_file(file)


def test_published_weights_are_bit_for_bit_what_the_float32_adapters_give(directory, first):
    base, merged = named(str(directory / "model")), named(first.path)
    kept = masters(first)
    assert all(value.dtype == torch.float32 for value in kept.values())
    num_changed = 0
    for name, value in kept.items():
        if "lora_A" not in name:
            continue
        layer = name.partition(".lora_A")[0]
        up = kept[name.replace("lora_A", "lora_B")]
        weight = base[f"{layer}.weight"].float()
        expected = (weight + (up @ value) * (LORA["alpha"] / LORA["rank"])).bfloat16()
        assert torch.equal(merged[f"{layer}.weight"], expected)
        num_changed += int((expected != base[f"{layer}.weight"]).any())
    assert num_changed > 4
    files = check_weights(first.path).files
    assert "adapters/adapters.safetensors" in files and "adapters/about.json" in files


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_updates_that_rounding_would_swallow_add_up(directory, run, stage):
    """A millionth a step moves nearly all float32 numbers, and hardly any in bfloat16."""
    weights, notices = fit(config(directory, "on", run, zero_stage=stage, lr=1e-6), run, 2)
    assert not notices
    before, after = masters(run), masters(weights)
    drawn = next(name for name in before if "lora_A" in name)
    rounded = after[drawn].bfloat16() != before[drawn].bfloat16()
    assert (after[drawn] != before[drawn]).float().mean() > 0.9
    assert (after[drawn] - before[drawn]).abs().max() < 1e-5 and rounded.float().mean() < 0.1
    origin = json.loads((Path(weights.path) / "adapters" / "about.json").read_text())
    assert origin["version"] == 0


def test_a_fit_without_adapters_of_before_begins_others_on_the_merged_weights(directory, run):
    cfg = config(directory, "wider", run, lora={"rank": 8})
    weights, (notice,) = fit(cfg, run, 2)
    assert "new adapters begin on the merged weights" in notice and "asks for rank 8" in notice
    origin = json.loads((Path(weights.path) / "adapters" / "about.json").read_text())
    assert (origin["version"], origin["rank"]) == (1, 8)


def test_adapters_whose_weights_below_were_dropped_are_not_gone_on_with(directory, run):
    cfg, below = config(directory, "gone", run), Path(run.path)
    start = Weights(2, str(shutil.copytree(below, below.with_name("v0002"))))
    origin = replace(find_masters(cfg, run, below.parent)[0].origin, version=1)
    origin = replace(origin, fingerprint=fingerprint_weights(below))
    about = Path(start.path) / "adapters" / "about.json"
    about.write_text(json.dumps(asdict(origin)))
    found, notice = find_masters(cfg, start, below.parent)
    assert found is not None and found.base == run.path and not notice
    DroppedNote("weights.keep_last=1 after round 1", "2026-01-02 03:04 UTC", 1, ()).save(below)
    found, notice = find_masters(cfg, start, below.parent)
    assert found is None and "new adapters begin on the merged weights" in notice
    assert "v0001 was dropped by weights.keep_last=1 after round 1" in notice


def test_a_base_that_is_another_one_now_is_not_gone_on_with(directory, run, tmp_path):
    shutil.copytree(directory / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(changed, file, metadata={"format": "pt"})
    cfg = config(directory, "moved", run, lr=1e-30)
    cfg = cfg.model_copy(update={"model": cfg.model.model_copy(update={"path": str(file.parent)})})
    train_ranks.draw_images(tmp_path)
    weights, (notice,) = fit(cfg, run, 2)
    assert "no longer holds the weights" in notice
    assert all(torch.equal(tensors(weights.path)[n], t) for n, t in tensors(run.path).items())


def test_adapters_that_cannot_be_put_back_leave_no_engine_behind(directory, run, monkeypatch):
    closed: list[zero.ZeroEngine] = []
    close = zero.ZeroEngine.close

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def counted(engine: zero.ZeroEngine) -> None:
        closed.append(engine)
        close(engine)

    monkeypatch.setattr(zero.ZeroEngine, "set_masters", run_out)
    monkeypatch.setattr(zero.ZeroEngine, "close", counted)
    with pytest.raises(TrainingError, match=r"out of memory while .* is loaded"):
        fit(config(directory, "unset", run), run, 2)
    assert len(closed) == 1


def test_a_fit_from_the_base_takes_no_adapters_along(directory, run):
    cfg = config(directory, "anew", run, restart_from="base", lr=1e-30)
    weights, notices = fit(cfg, Weights(0, str(directory / "model")), 2)
    assert not notices
    base = tensors(str(directory / "model"))
    assert all(torch.equal(t, base[n].bfloat16()) for n, t in tensors(weights.path).items())


def test_liger_is_refused_where_there_is_no_gpu(directory):
    cfg = config(directory, "liger", liger=True)
    with pytest.raises(TrainingError, match=r"train\.liger=true on a rank without a GPU"):
        fit(cfg, Weights(0, str(directory / "model")), 1)


def test_liger_is_refused_where_its_package_is_not_installed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger, "PACKAGE", "no_such_package")
    with pytest.raises(TrainingError, match=r"no_such_package cannot be imported.*pip install"):
        liger.use_kernels(None)
