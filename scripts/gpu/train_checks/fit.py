"""Rows `fit/<model>/zero<stage>/<tokens>`: what a training step costs at three micro-batch sizes.

The stage may have a suffix (`VARIANTS`): what is offloaded then, or trained with Liger's kernels.

One call of `TrainEngine.fit` trains one model on all the sizes in turn, so that it is loaded once.
Each size has a step to warm up and two that count, of some two micro-batches each, in which
examples with and without a picture are mixed. The fit is left before it publishes.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any
from unittest.mock import patch

from train_checks import card, memory
from train_checks.kit import Emit, Kit
from virgo_ray.config import Config, TrainConfig
from virgo_ray.records import Example, Plan, sequence_length
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.feed import Feed
from virgo_ray.train.pack import arrange, num_tokens, step_examples
from virgo_ray.train.work import TOKENS
from virgo_ray.train.zero import ZeroEngine

VARIANTS: dict[str, dict[str, Any]] = {
    "offload": {"offload": "optimizer"},
    "offload_all": {"offload": "optimizer_and_parameters"},
    "liger": {"liger": True},
}
STEPS = 3  # of each size; the first one warms up
FILL = 1.8  # micro-batches' worth of tokens in a step
PHASES = {
    (Feed, "take"): "wait_s",
    (ZeroEngine, "__call__"): "forward_s",
    (ZeroEngine, "backward"): "backward_s",
    (ZeroEngine, "step"): "optimizer_s",
}


class Enough(Exception):
    """All steps are measured: leaves the fit before it publishes."""


@dataclass(frozen=True)
class Job:
    """One row: the model, its ZeRO stage, the tokens of a micro-batch."""

    row: str
    model: str
    stage: int
    num_tokens: int
    variant: str = ""

    @classmethod
    def parse(cls, row: str) -> Job:
        """`fit/3b/zero2/8192`, `fit/3b/zero2_offload/8192`."""
        _, model, stage, num = row.split("/")
        stage, _, variant = stage.removeprefix("zero").partition("_")
        return cls(row, model, int(stage), int(num), variant)

    @property
    def keys(self) -> dict[str, Any]:
        """Of `train`."""
        return VARIANTS.get(self.variant, {})


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    jobs = [Job.parse(row) for row in rows]
    fitting = [job for job in jobs if not _skip(kit, job, emit)]
    if fitting:
        _fit(kit, fitting, emit)


def _skip(kit: Kit, job: Job, emit: Emit) -> bool:
    """Whether the row needs more than the card has by the formula, or kernels that are not here."""
    if job.variant == "liger" and (kit.device != "cuda" or not find_spec("liger_kernel")):
        emit(job.row, {}, skipped="liger-kernel is not installed, or there is no GPU")
        return True
    limit = card.memory_bytes()
    needed = _expected(kit, job, job.num_tokens)
    if limit is None or needed < limit:
        return False
    emit(job.row, {}, skipped=f"needs {needed / 1e9:.0f} GB by the formula, of {limit / 1e9:.0f}")
    return True


def _expected(kit: Kit, job: Job, num_targets: int) -> int:
    size = memory.size_of(kit.scale.shapes[job.model])
    num_trained = 0 if _has_adapters(kit, job) else size.trained
    offload = job.keys.get("offload", "none")
    is_partitioned = job.stage == 3
    return memory.expected_bytes(
        size, num_trained, job.num_tokens, num_targets, is_partitioned, offload
    )


def _has_adapters(kit: Kit, job: Job) -> bool:
    return job.model == kit.scale.lora


def _fit(kit: Kit, jobs: Sequence[Job], emit: Emit) -> None:
    first = jobs[0]
    cfg = config(kit, first)
    kit.join_group(cfg)
    plan = make_plan(kit, [job.num_tokens for job in jobs])
    phases = Phases()
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if "step" not in event:
            return
        events.append(event)
        job, place = jobs[(len(events) - 1) // STEPS], (len(events) - 1) % STEPS
        if place == STEPS - 1:
            emit(job.row, figures(kit, job, plan, events[-STEPS + 1 :], phases))
        if place in (0, STEPS - 1):
            phases.restart()
        if len(events) == len(plan.steps):
            raise Enough

    with phases.recording():
        try:
            TrainEngine(cfg).fit(plan, kit.weights(first.model), 1, listen)
        except Enough:
            return


def config(kit: Kit, job: Job) -> Config:
    lora = {"lora": {"rank": 16}, "freeze_connector": True} if _has_adapters(kit, job) else {}
    name = job.row.replace("/", "-")
    return kit.config(
        job.model, name, zero_stage=job.stage, micro_batch_tokens=job.num_tokens, **lora, **job.keys
    )


def make_plan(kit: Kit, sizes: Sequence[int]) -> Plan:
    """`STEPS` steps of each size, every example (and picture) seen once."""
    rng = random.Random(0)
    examples: list[Example] = []
    steps = []
    for size in sizes:
        for _ in range(STEPS):
            batch = []
            while sum(sequence_length(examples[i]) for i in batch) < FILL * size:
                batch.append(len(examples))
                length = rng.randint(*kit.scale.thought)
                name = f"{len(examples)}"
                examples.append(kit.example(name, length, len(examples) % 2 == 0, rng))
            loads = [TOKENS.load(e) for e in examples]
            limit = TrainConfig(num_workers=1, micro_batch_tokens=size)
            steps.append(arrange(batch, loads, limit))
    return Plan(tuple(examples), tuple(steps))


class Phases:
    """Seconds in each phase of a step, from calls between two synchronisations."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def restart(self) -> None:
        self.seconds.clear()
        card.start_peak()

    @contextmanager
    def recording(self) -> Iterator[None]:
        with ExitStack() as stack:
            for (owner, method), phase in PHASES.items():
                original = getattr(owner, method)
                stack.enter_context(patch.object(owner, method, self._timed(original, phase)))
            yield

    def _timed(self, method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            card.synchronize()
            began = time.perf_counter()
            result = method(*args, **kwargs)
            card.synchronize()
            self.seconds[phase] += time.perf_counter() - began
            return result

        return timed


def figures(
    kit: Kit, job: Job, plan: Plan, events: Sequence[dict[str, Any]], phases: Phases
) -> dict[str, Any]:
    """A row of the table, per step where a figure is in seconds."""
    steps = [event["step"] - 1 for event in events]
    seconds = sum(event["seconds"] for event in events)
    useful = sum(num_tokens(plan, step) for step in steps)
    micro_batches = [plan_batch for step in steps for plan_batch in plan.steps[step][0]]
    targets = max(sum(len(plan.examples[i].target_ids) for i in b) for b in micro_batches)
    seen = chain.from_iterable(step_examples(plan, step) for step in steps)
    num_pictures = sum(len(example.images) for example in seen)
    shape = kit.scale.shapes[job.model]
    num_patches = num_pictures * (kit.scale.side // shape.patch_size) ** 2
    work = memory.flops(memory.size_of(shape), useful, num_patches, _has_adapters(kit, job))
    peak_flops = card.peak_flops()
    return {
        "tokens_per_s": useful / seconds,
        "mfu": None if peak_flops is None else work / seconds / peak_flops,
        "peak_gb": card.peak_gb(),
        "formula_gb": _expected(kit, job, targets) / 1e9,
        "step_s": seconds / len(steps),
        **{phase: phases.seconds[phase] / len(steps) for phase in PHASES.values()},
        "micro_batches": len(micro_batches) / len(steps),
        "loss": events[-1]["loss"],
    }
