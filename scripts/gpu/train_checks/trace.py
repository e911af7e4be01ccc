"""Row `trace`: a profile of one optimizer step, for chrome://tracing or Perfetto.

Written to `trace.json.gz`. One that is larger than `LARGEST_MIB` is deleted and fails the row.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from train_checks import fit
from train_checks.kit import Emit, Kit
from virgo_ray.train.engine import TrainEngine

LARGEST_MIB = 16
NUM_NAMED = 5  # kernels, by their own time


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    (row,) = rows
    scale = kit.scale
    job = fit.Job(row, scale.full, 2, scale.micro_batches[0])
    cfg = fit.config(kit, job)
    kit.join_group(cfg)
    activities = [ProfilerActivity.CPU]
    if kit.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)
    num_steps = 0

    def listen(event: dict[str, Any]) -> None:
        nonlocal num_steps
        if "step" not in event:
            return
        num_steps += 1
        if num_steps == 1:
            profiler.start()
        elif num_steps == 2:
            profiler.stop()
            raise fit.Enough

    try:
        plan = fit.make_plan(kit, [job.num_tokens])
        TrainEngine(cfg).fit(plan, kit.weights(scale.full), 1, listen)
    except fit.Enough:
        emit(row, *_written(kit, profiler))


def _written(kit: Kit, profiler: profile) -> tuple[dict[str, Any], str]:
    path = kit.out / "trace.json.gz"
    plain = kit.work / "trace.json"
    profiler.export_chrome_trace(str(plain))
    with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    plain.unlink()
    mib = path.stat().st_size / 2**20
    figures: dict[str, Any] = {"trace_mib": mib}
    kind = "device" if torch.cuda.is_available() else "cpu"
    averages = profiler.key_averages()
    for event in sorted(averages, key=lambda e: -getattr(e, f"self_{kind}_time_total"))[:NUM_NAMED]:
        figures[event.key[:60].replace(" ", "_")] = (
            f"{getattr(event, f'self_{kind}_time_total') / 1e3:.1f}ms"
        )
    if mib <= LARGEST_MIB:
        return figures, ""
    path.unlink()
    return figures, f"the trace has {mib:.0f} MiB, expected at most {LARGEST_MIB}: deleted"
