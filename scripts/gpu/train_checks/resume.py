"""Rows `resume/...`: that a fit goes on, publishes what it trained, and gives its memory back.

They run on a model of real width with few layers, because a checkpoint of a whole one is 45 GB.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from train_checks import card
from train_checks.kit import Emit, Kit
from virgo_ray.config import Config
from virgo_ray.records import Plan, Weights
from virgo_ray.train.batch import Batcher
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.model import load_model
from virgo_ray.train.pack import pack
from virgo_ray.train.probing import as_example
from virgo_ray.train.rows import packed_rows
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.probe import PROBE_NAME, Probe
from virgo_ray.weights.verdict import compare, largest

NUM_EXAMPLES, NUM_STEPS, STOP_AT = 6, 4, 2
LARGEST_LOSS_GAP = 1e-3  # nats; atomic additions on a GPU come in another order
LARGEST_LOGPROB_GAP = 1e-2  # nats; the same weights by the same path
LARGEST_LEFT = 0.1  # of the model's bytes, after a fit: scratch memory of the libraries


class Interrupted(Exception):
    """Stands for a killed process: raised after a step."""


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    for row in rows:
        {
            "stop_and_go": stop_and_go,
            "publish_and_reload": publish_and_reload,
            "dummy_picture": dummy_picture,
            "memory_freed": memory_freed,
        }[row.split("/")[1]](kit, row, emit)


def stop_and_go(kit: Kit, row: str, emit: Emit) -> None:
    """A fit that was stopped after a checkpoint, and one that was not, have the same losses."""
    whole, _ = fit(kit, "whole", stop_at=None)
    halves, resumed_from = fit(kit, "halves", stop_at=STOP_AT)
    gap = max(abs(a - b) for a, b in zip(whole, halves, strict=True))
    figures = {"resumed_from_step": resumed_from, "largest_loss_gap": gap, "last_loss": whole[-1]}
    said = ""
    if resumed_from == 0:
        said = "the fit began again, expected it to go on from a checkpoint"
    elif not gap <= LARGEST_LOSS_GAP:
        said = f"losses are {gap:.3g} apart after the checkpoint, expected {LARGEST_LOSS_GAP}"
    emit(row, figures, error=said)


def fit(kit: Kit, name: str, stop_at: int | None) -> tuple[list[float], int]:
    """Losses by step, and the step at which the last fit began; the run directory is new."""
    cfg = config(kit, name)
    shutil.rmtree(cfg.run_dir, ignore_errors=True)
    kit.join_group(cfg)
    losses: dict[int, float] = {}

    def listen(event: dict[str, Any]) -> None:
        if "step" in event:
            losses[event["step"]] = event["loss"]
            if event["step"] == stop_at:
                raise Interrupted

    work = (plan(kit, cfg), kit.weights(kit.scale.shallow), 1)
    if stop_at is not None:
        try:
            TrainEngine(cfg).fit(*work, listen)
        except Interrupted:
            stop_at = None
    engine = TrainEngine(cfg)
    report = engine.fit(*work, listen)
    engine.settle()
    return [loss for _, loss in sorted(losses.items())], report.resumed_from_step


def config(kit: Kit, name: str, zero_stage: int = 2) -> Config:
    return kit.config(
        kit.scale.shallow, f"resume-{name}", zero_stage=zero_stage, lr=1e-4,
        num_epochs=float(NUM_STEPS), batch_size=NUM_EXAMPLES,
        micro_batch_tokens=kit.scale.micro_batches[0],
        checkpoint_every_s=1e-9 if name == "halves" else 1e6,
    )  # fmt: skip


def plan(kit: Kit, cfg: Config) -> Plan:
    rng = random.Random(0)
    examples = [
        kit.example(f"resume-{i}", rng.randint(*kit.scale.thought), i % 2 == 0, rng)
        for i in range(NUM_EXAMPLES)
    ]
    return pack(examples, cfg.train, random.Random(0))


def publish_and_reload(kit: Kit, row: str, emit: Emit) -> None:
    """What was published is whole, and says what the trainer said before it published."""
    cfg = config(kit, "whole")
    directory = Path(cfg.run_dir) / "weights" / "v0001"
    if not directory.exists():
        fit(kit, "whole", stop_at=None)
    check_weights(directory)
    probe = Probe.load(directory / PROBE_NAME)
    scored = score(kit, cfg, directory, probe)
    gap = largest([compare(probe, scored)])
    moved = largest([compare(probe, score_base(kit, cfg, probe))])
    figures = {
        "published_gb": sum(f.stat().st_size for f in directory.iterdir()) / 1e9,
        "largest_gap": gap,
        "largest_gap_to_base": moved,
    }
    said = ""
    if not gap <= LARGEST_LOGPROB_GAP:
        said = f"{gap:.3g} nats from the trainer, expected {LARGEST_LOGPROB_GAP}"
    elif not moved > gap:
        said = f"as near to the base ({moved:.3g} nats) as to the trainer: not trained?"
    emit(row, figures, error=said)


def score_base(kit: Kit, cfg: Config, probe: Probe) -> list[list[float]]:
    return score(kit, cfg, Path(kit.weights(kit.scale.shallow).path), probe)


@torch.no_grad()
def score(kit: Kit, cfg: Config, directory: Path, probe: Probe) -> list[list[float]]:
    """The probe's items by the checkpoint in `directory`, loaded by itself."""
    model = load_model(str(directory), cfg.model).eval().to(kit.device)
    batcher = Batcher(str(directory), cfg.model, torch.device(kit.device), packed_rows(model))
    module = TargetLogprobs(model, cfg.model.head_dtype)
    rows = []
    for item in probe.items:
        batch = batcher.collate([as_example(item)])
        rows.append(module(batch.inputs, batch.places, batch.targets).tolist())
    return rows


def dummy_picture(kit: Kit, row: str, emit: Emit) -> None:
    """Text alone runs the vision tower, and gives every one of its parameters a gradient of 0."""
    cfg = config(kit, "dummy")
    weights: Weights = kit.weights(kit.scale.shallow)
    model: Any = load_model(weights.path, cfg.model).to(kit.device)
    runs: list[int] = []
    model.model.visual.register_forward_hook(lambda *_: runs.append(1))
    example = kit.example("text", kit.scale.thought[1], False, random.Random(0))
    device = torch.device(kit.device)
    batch = Batcher(weights.path, cfg.model, device, packed_rows(model)).collate([example])
    TargetLogprobs(model)(batch.inputs, batch.places, batch.targets).sum().backward()
    vision = [p.grad for p in model.model.visual.parameters()]
    missing = sum(grad is None for grad in vision)
    largest = max((grad.abs().max().item() for grad in vision if grad is not None), default=0.0)
    text = model.model.language_model.layers[0].mlp.up_proj.weight.grad.abs().max().item()
    figures = {"tower_runs": len(runs), "largest_vision_grad": largest, "largest_text_grad": text}
    said = ""
    if len(runs) != 1 or missing:
        said = f"the tower ran {len(runs)} times, {missing} parameters without a gradient"
    elif largest != 0.0 or not text > 0.0:
        said = f"vision gradient {largest:.3g}, text gradient {text:.3g}; expected 0 and more"
    emit(row, figures, error=said)


def memory_freed(kit: Kit, row: str, emit: Emit) -> None:
    """A fit leaves nothing on the device, so that engines can wake up there."""
    figures: dict[str, float] = {}
    said = ""
    for stage in (2, 3):
        cfg = config(kit, f"freed-{stage}", stage)
        shutil.rmtree(cfg.run_dir, ignore_errors=True)
        kit.join_group(cfg)
        before = card.held_bytes()
        engine = TrainEngine(cfg)
        fitted = engine.fit(plan(kit, cfg), kit.weights(kit.scale.shallow), 1)
        engine.settle()
        left = card.held_bytes() - before
        whole = sum(f.stat().st_size for f in Path(fitted.weights.path).glob("*.safetensors"))
        figures[f"zero{stage}_left_mb"] = left / 1e6
        if left > LARGEST_LEFT * whole:
            said = f"ZeRO-{stage} left {left / 1e6:.3g} MB of a model of {whole / 1e6:.3g} MB"
    emit(row, figures, error=said)
