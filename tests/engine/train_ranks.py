"""What two ranks do for test_train_engine.py: `python train_ranks.py RANK PORT DIRECTORY`.

Every scenario is one fit (or two, if the first is interrupted) by both ranks together; rank 0
writes the losses and reports to `DIRECTORY/results.json`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from small_model import draw_image

from virgo_ray.config import Config, parse_config
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Plan, Problem, Weights
from virgo_ray.train.pack import pack

NUM_EXAMPLES = 12
SCENARIOS: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1, "gradient_checkpointing": True},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero2_padded": {"zero_stage": 2, "packing": False},
    "zero3_recomputing": {"zero_stage": 3, "gradient_checkpointing": True},
    "zero0_untried": {"zero_stage": 0},
    "zero1_untried": {"zero_stage": 1, "gradient_checkpointing": True},
    "zero2_untried": {"zero_stage": 2},
    "zero3_untried": {"zero_stage": 3},
    "zero2_interrupted": {"zero_stage": 2, "checkpoint_every_s": 1e-9},
    "zero3_interrupted": {"zero_stage": 3, "checkpoint_every_s": 1e-9},
    "damaged": {"zero_stage": 2, "checkpoint_every_s": 1e-9},
    "lora": {"zero_stage": 2, "lora": {"rank": 4}, "freeze_connector": True},
    "lora_zero3": {"zero_stage": 3, "lora": {"rank": 4}, "freeze_connector": True},
    "lora_zero3_recomputing": {
        "zero_stage": 3, "lora": {"rank": 4}, "freeze_connector": True,
        "gradient_checkpointing": True,
    },
    "lora_interrupted": {
        "zero_stage": 2, "lora": {"rank": 4}, "freeze_connector": True, "checkpoint_every_s": 1e-9,
    },
    "lora_zero3_interrupted": {
        "zero_stage": 3, "lora": {"rank": 4}, "freeze_connector": True, "checkpoint_every_s": 1e-9,
    },
}  # fmt: skip
STOP_AT = 4
# Fits that one number of ranks begins and another ends; many groups, which are cut differently.
LORA = {"lora": {"rank": 4}, "freeze_connector": True}
HANDED_OVER: dict[str, dict[str, Any]] = {  # by two ranks to one
    "handed_zero0": {"zero_stage": 0},
    "handed_zero1": {"zero_stage": 1, "gradient_checkpointing": True},
    "handed_zero2": {"zero_stage": 2},
    "handed_zero3": {"zero_stage": 3},
    "handed_lora_zero3": {"zero_stage": 3, **LORA},
}
TAKEN_OVER: dict[str, dict[str, Any]] = {  # by two ranks from one
    "taken_zero2": {"zero_stage": 2},
    "taken_zero3": {"zero_stage": 3},
    "taken_lora": {"zero_stage": 2, **LORA},
}
SMALL_GROUPS = 20_000  # elements
READY = "begun_by_one_rank"  # a file that says that those of TAKEN_OVER can be ended


class Interrupted(Exception):
    """Stands for a killed process: raised on all ranks after a step."""


def config(directory: Path, name: str, num_workers: int, **train: Any) -> Config:
    sampling = {"sampling": {"max_tokens": 100}}
    source = {"reader": "tiny"}
    usual = {"batch_size": 4, "micro_batch_tokens": 80, "lr": 1e-3, "num_epochs": 2.0}
    return parse_config(
        {
            "name": name,
            "run_dir": str(directory / name),
            "model": {"path": str(directory / "model"), "dtype": "float32", "max_length": 256},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": {"num_workers": num_workers, **usual, **train},
        }
    )


def examples(directory: Path, cfg: Config) -> list[Example]:
    """Every third one has a picture, so micro-batches with and without meet in one step."""
    prompter = Prompter(cfg.model, cfg.prompt)
    made = []
    for i in range(NUM_EXAMPLES):
        images = (str(directory / f"{i}.png"),) if i % 3 == 0 else ()
        problem = Problem(str(i), f"what is {i} + 3 ?", str(i + 3), images)
        made.append(prompter.example(problem.id, problem, f"think: {i} + 3" + " step" * i))
    return made


def draw_images(directory: Path) -> None:
    for i in range(0, NUM_EXAMPLES, 3):
        draw_image(directory / f"{i}.png", f"{i} + 3", (56 + 28 * (i % 2), 28))


def plan(directory: Path, cfg: Config) -> Plan:
    return pack(examples(directory, cfg), cfg.train, random.Random(0))


def run_scenario(directory: Path, name: str, num_workers: int) -> dict[str, Any]:
    """Fit, interrupted after `STOP_AT` steps where the name says so; losses by step.

    Where the name says so, the largest micro-batch is not tried first.
    """
    from virgo_ray.train.engine import TrainEngine
    from virgo_ray.train.fitting import Fitting

    tried = Fitting._try_largest
    if "untried" in name:
        Fitting._try_largest = lambda self: None

    cfg = config(directory, name, num_workers, **SCENARIOS[name])
    work = (plan(directory, cfg), Weights(0, str(directory / "model")), 1)
    losses: dict[int, float] = {}
    refusal = ""
    stop_at = STOP_AT if "interrupted" in name or name == "damaged" else None

    def listen(event: dict[str, Any]) -> None:
        if "step" in event:
            losses[event["step"]] = event["loss"]
            if event["step"] == stop_at:
                raise Interrupted

    engine = TrainEngine(cfg)
    if stop_at is not None:
        try:
            engine.fit(*work, listen)
        except Interrupted:
            stop_at = None
        if name == "damaged":
            refusal = refused_until_set_aside(directory / name, lambda: engine.fit(*work, listen))
    report = fit_whole(engine, *work, listen)
    again = engine.fit(*work)
    Fitting._try_largest = tried
    return {
        "losses": losses,
        "report": asdict(report),
        "again": again == report,
        "refusal": refusal,
    }


def fit_whole(engine: Any, *work: Any) -> Any:
    """A fit whose version all ranks find published."""
    import torch.distributed as dist

    report = engine.fit(*work)
    engine.settle()
    dist.barrier()
    return report


def run_part(
    directory: Path, name: str, num_workers: int, stop_at: int | None = None
) -> dict[str, Any]:
    """A fit of HANDED_OVER or TAKEN_OVER, up to a step or to its end, in groups that are small."""
    from virgo_ray.train import zero
    from virgo_ray.train.engine import TrainEngine

    train = {**HANDED_OVER, **TAKEN_OVER}[name]
    cfg = config(directory, name, num_workers, checkpoint_every_s=1e-9, **train)
    losses: dict[int, float] = {}
    notices: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        notices.extend([event["notice"]] if "notice" in event else [])
        if "step" in event:
            losses[event["step"]] = event["loss"]
            if event["step"] == stop_at:
                raise Interrupted

    usual, zero.UPDATE_ELEMENTS = zero.UPDATE_ELEMENTS, SMALL_GROUPS
    try:
        start = Weights(0, str(directory / "model"))
        report = fit_whole(TrainEngine(cfg), plan(directory, cfg), start, 1, listen)
    except Interrupted:
        return {"losses": losses}
    finally:
        zero.UPDATE_ELEMENTS = usual
    return {"losses": losses, "report": asdict(report), "notices": notices}


def run_resident(directory: Path, run: str, **train: Any) -> dict[str, Any]:
    """A second fit by a trainer that kept the first in memory, and by one that loads it."""
    import torch.distributed as dist

    from virgo_ray.train.engine import TrainEngine
    from virgo_ray.weights.manifest import read_manifest

    usual = {"zero_stage": 3, "restart_from": "previous", "num_epochs": 0.7, **LORA, **train}
    cfg = config(directory, run, 2, resident=True, **usual)
    cfg = cfg.model_copy(update={"model": cfg.model.model_copy(update={"dtype": "bfloat16"})})
    trainer, base = TrainEngine(cfg), Weights(0, str(directory / "model"))
    first = fit_whole(trainer, plan(directory, cfg), base, 1).weights
    results: dict[str, Any] = {}
    for name in ("kept", "loaded"):
        losses: list[float] = []
        fit_whole(
            trainer, plan(directory, cfg), first, 2,
            lambda e, losses=losses: losses.extend([e["loss"]] if "step" in e else []),
        )  # fmt: skip
        trainer.close()
        published = Path(cfg.run_dir) / "weights" / "v0002"
        if dist.get_rank() == 0:
            files = read_manifest(published).files
            sums = {n: f.sha256 for n, f in files.items() if n not in ("fit.json", "README.md")}
            results[name] = {"losses": losses, "files": sums}
            published.rename(published.with_name(name))
        dist.barrier()
        trainer = TrainEngine(cfg)
    return results


def wait_for(file: Path, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not come within {deadline_s} s"
        time.sleep(0.05)


def refused_until_set_aside(run_dir: Path, fit: Callable[[], Any]) -> str:
    """Cut the newest checkpoint's largest file in half; returns what `fit` says of it, on every
    rank, and moves it aside as a user would."""
    import torch.distributed as dist

    from virgo_ray.errors import TrainingError

    refusal = ""
    dist.barrier()
    newest = max(run_dir.glob("checkpoints/*/*/step_*"))
    if dist.get_rank() == 0:
        file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    dist.barrier()
    try:
        fit()
    except TrainingError as error:
        refusal = str(error)
    dist.barrier()
    if dist.get_rank() == 0:
        newest.rename(run_dir / "damaged_checkpoint")
    dist.barrier()
    return refusal


def work(directory: Path) -> dict[str, Any]:
    """All that the two ranks do."""
    for name in HANDED_OVER:
        run_part(directory, name, 2, STOP_AT)
    results = {name: run_scenario(directory, name, 2) for name in SCENARIOS}
    results["resident"] = run_resident(directory, "resident")
    carried = {"carry_optimizer": True, "schedule": "constant"}
    results["carried"] = run_resident(directory, "carried", **carried)
    wait_for(directory / READY, deadline_s=300)
    return results | {name: run_part(directory, name, 2) for name in TAKEN_OVER}


def main(argv: list[str], work: Callable[[Path], dict[str, Any]]) -> None:
    """Be one of two ranks (RANK PORT DIRECTORY); rank 0 writes what `work` returns."""
    import torch
    import torch.distributed as dist

    from virgo_ray.train.zero import join_group, leave_group

    rank, port, directory = int(argv[0]), int(argv[1]), Path(argv[2])
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    join_group(rank, 2, store, config(directory, "group", 2).train)
    gc.freeze()  # what was imported: see tests/conftest.py
    results = work(directory)
    if rank == 0:
        (directory / "results.json").write_text(json.dumps(results))
    leave_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is being torn down


if __name__ == "__main__":
    main(sys.argv[1:], work)
