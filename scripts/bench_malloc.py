"""What malloc's settings cost a training step on CPU: `python scripts/bench_malloc.py`, a minute.

Every setting trains the bundled model on seed thoughts for as many steps, in a process of its own;
ratios are to glibc's defaults. `virgo_ray.actors.cluster` starts local CPU clusters with the second
one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from virgo_ray.actors.cluster import FRUGAL_MALLOC
from virgo_ray.model.files import TINY_DIRECTORY

SETTINGS: dict[str, dict[str, str]] = {
    "glibc's defaults": {},
    "virgo_ray's": FRUGAL_MALLOC,
    "a trim threshold only": {"MALLOC_TRIM_THRESHOLD_": "131072"},
}
NUM_THOUGHTS, WARM_UP = 480, 96


def main() -> None:
    if "--child" in sys.argv:
        print(json.dumps(measured()))
        return
    rows: list[tuple[str, float, int]] = []
    for name, setting in SETTINGS.items():
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        child = subprocess.run(
            [sys.executable, __file__, "--child"], env={**clean, **setting},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds, faults = json.loads(child.stdout.splitlines()[-1])
        rows.append((name, seconds, faults))
    print("| malloc | seconds | page faults | time to the defaults' |\n|---|---|---|---|")
    for name, seconds, faults in rows:
        print(f"| {name} | {seconds:.1f} | {faults:,} | {seconds / rows[0][1]:.2f} |")


def measured() -> tuple[float, int]:
    """(seconds, minor page faults) of a fit, after a short one."""
    sys.path.append(str(Path(__file__).parent / "tiny_model"))
    from tiny_parts import make_tokenizer
    from tiny_uptake import learn_thoughts

    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(TINY_DIRECTORY, dtype=torch.float32)
    learn_thoughts(model, tokenizer, 0, WARM_UP, 1)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    learn_thoughts(model, tokenizer, 0, NUM_THOUGHTS, 1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return time.perf_counter() - start, faults


if __name__ == "__main__":
    main()
