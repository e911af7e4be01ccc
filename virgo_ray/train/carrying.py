"""An optimizer that goes on from one fit to the next (`train.carry_optimizer`).

A fit leaves AdamW's moments and step counts and the float32 weights that it updates, as a
checkpoint of DeepSpeed in `optimizer/v000N` of the run directory, before version N is published.
`fit.json` of the version says that they are there, and how many steps were made. Guarantees: a fit
that goes on with them is to the last bit the one that goes on in memory; one that cannot begins
anew and says why, or is refused; nothing is loaded that the checkpoint does not name, byte for
byte. Which of them are kept is the rule of `weights/retention.py`. Knows no DeepSpeed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, TrainConfig
from virgo_ray.errors import TrainingError
from virgo_ray.records import Plan, Weights
from virgo_ray.train.checkpoint import CheckpointStore, Position
from virgo_ray.train.job import ANY_RANKS, Carried, Job
from virgo_ray.train.loss import learning_rate
from virgo_ray.weights.contents import FIT_NAME, OPTIMIZER_ROOT

# What decides which parameters an optimizer has.
TRAINED = ("freeze_vision", "freeze_connector", "lora")
WAY_OUT = (
    "begin the optimizer anew: train.carry_optimizer=false for the next fit, with "
    "train.schedule=constant and train.schedule_steps=null where a plan of the learning rate is set"
)


def find_carried(
    cfg: Config, plan: Plan, start: Weights, has_adapters: bool
) -> tuple[Carried | None, str]:
    """The optimizer that a fit on `plan` goes on with, or None and why not (may be empty).

    `has_adapters`: it goes on with the adapters of `start`.

    Raises:
        TrainingError: it is there, and cannot be read as the ranks are set up now.
    """
    if not cfg.train.carry_optimizer or start.version < 1:
        return None, ""
    values = json.loads((Path(start.path) / FIT_NAME).read_text())
    left = values.get("optimizer")
    now = describe_left(cfg, plan, 0)
    if left is None:
        return None, _anew(
            start, "they were trained without train.carry_optimizer, or before another objective"
        )
    if left["learns"] != now["learns"]:
        return None, _anew(
            start, f"they were trained by {left['learns']}, now it is {now['learns']}"
        )
    if left["trained"] != now["trained"] or (cfg.train.lora and not has_adapters):
        return None, _anew(start, "other parameters are trained now")
    if left["layout"] != now["layout"]:
        raise TrainingError(
            f"the optimizer of version {start.version} was written with {left['layout']}, and is "
            f"read with {now['layout']}, which DeepSpeed cannot; set these keys of `train` back, "
            f"or {WAY_OUT}"
        )
    return Carried(start.version, values["recipe"], left["num_steps"]), ""


def is_taken_on(cfg: Config, plan: Plan) -> bool:
    """Whether a next fit could go on with the optimizer of a fit on `plan`: not after round 0
    before an objective that learns from groups."""
    return cfg.train.carry_optimizer and _learns(cfg, plan) == cfg.train.objective.name


def describe_left(cfg: Config, plan: Plan, num_steps: int) -> dict[str, Any]:
    """What `fit.json` says of the optimizer that a fit on `plan` leaves, after `num_steps`."""
    train = cfg.train
    is_free = train.zero_stage in ANY_RANKS.get(cfg.model.dtype, ())
    return {
        "num_steps": num_steps,
        "learns": _learns(cfg, plan),
        "trained": train.model_dump(mode="json", include={*TRAINED}),
        "layout": {
            "zero_stage": train.zero_stage,
            "offload": train.offload,
            "deepspeed": train.model_dump(mode="json")["deepspeed"],
            **({} if is_free else {"num_workers": train.num_workers}),
        },
    }


def _learns(cfg: Config, plan: Plan) -> str:
    return cfg.train.objective.name if any(e.group for e in plan.examples) else "imitation"


def require_planned(cfg: TrainConfig, num_before: int, plan: Plan) -> None:
    """A fit ends within the learning rate's plan.

    Raises:
        TrainingError: it does not, and what to set.
    """
    planned, end = cfg.schedule_steps, num_before + len(plan.steps)
    if planned is not None and cfg.schedule != "constant" and end > planned:
        raise TrainingError(
            f"train.schedule_steps={planned} with {num_before} steps made and {len(plan.steps)} in "
            f"this fit: the learning rate would be zero before its end; expected at least {end}. "
            "The same command with a larger one goes on"
        )


def find_rate(cfg: TrainConfig, job: Job, step: int) -> float:
    """The learning rate of a step of a fit, counted from 0.

    With `train.schedule_steps` it is planned for the steps since the optimizer began anew. A
    constant one rises once, within the first of the fits.
    """
    plan = job.plan
    if cfg.schedule_steps is not None:
        step, num = job.num_before + step, cfg.schedule_steps
        return learning_rate(min(step, num), num, cfg.lr, cfg.warmup_ratio, cfg.schedule)
    if job.num_before:
        return cfg.lr
    num = plan.scheduled_steps or len(plan.steps)
    return learning_rate(step, num, cfg.lr, cfg.warmup_ratio, cfg.schedule)


def state_store(run_dir: Path, version: int, recipe: str) -> CheckpointStore:
    """Where the fit of `recipe` leaves its optimizer."""
    return CheckpointStore(run_dir / OPTIMIZER_ROOT / f"v{version:04d}", recipe)


def find_left(run_dir: Path, carried: Carried) -> Path:
    """The whole checkpoint of `carried`.

    Raises:
        TrainingError: it is gone or damaged, and what to do.
    """
    store = state_store(run_dir, carried.version, carried.recipe)
    way_out = f"bring it back, or {WAY_OUT}"
    try:
        position = store.latest()
    except TrainingError as error:
        fault = str(error).split(". ")[0]
        raise TrainingError(f"the optimizer cannot be carried on: {fault}; {way_out}") from error
    if position is None or position.step != carried.num_steps:
        raise TrainingError(
            f"the optimizer of version {carried.version} after {carried.num_steps} steps is not in "
            f"{store.path(carried.num_steps)}; {way_out}"
        )
    return store.place(position)


def leave(position: Position, job: Job) -> Position:
    """What is said of the optimizer after the last step of a fit."""
    return replace(position, fit=job.recipe, step=job.num_before + position.step, recent=[])


def _anew(start: Weights, why: str) -> str:
    return f"AdamW begins anew on {start.path}, with moments of zero and a new warm-up: {why}"
