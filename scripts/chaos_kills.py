"""What chaos.py can do to a running system, and which part of it is there to be struck.

Every kind is drawn where it was least often: first by phase, then over all, so that each meets many
phases. Works as an ordinary user. Touches only processes that the given run has started.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psutil

WORKERS = {
    "rollout": "ray::RolloutWorker",
    "verifier": "ray::VerifierWorker",
    "trainer": "ray::TrainerWorker",
}
KINDS = {
    "driver": "the driver",
    "rollout": "a rollout worker's actor",
    "engine": "a vLLM EngineCore, also while it starts",
    "verifier": "a verifier worker's actor",
    "trainer": "a trainer rank",
    "cluster": "all of the Ray cluster at once",
    "raylet": "a raylet that is not the head's (needs --nodes)",
    "memory": "Ray's memory monitor strikes, because a ballast fills the memory (needs --ballast)",
    "hang": "an engine is stopped, in a push or elsewhere, and never goes on",
    "disk": "the driver or a trainer rank can write no file further, as on a full disk",
}
# A push takes a second or two: it is waited for.
PUSH_WAIT_S = 300.0
LOOK_EVERY_S = 0.05
FULL_AT_BYTES = 4096  # the length at which files end that a struck process writes
BALLAST_DEADLINE_S = 90.0
# Takes at most argv[1] MiB, leaves argv[2] MiB to others, and is the first that the kernel ends.
BALLAST = """
import pathlib, psutil, sys, time
pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
most, left = (int(mib) * 2**20 for mib in sys.argv[1:])
held = []
while True:
    if len(held) * 2**26 < most and psutil.virtual_memory().available > left:
        held.append(bytearray(b"x" * 2**26))
    time.sleep(0.05)
"""
RUN_MIB = 6000  # what a run of configs/tiny.yaml holds at most, with all its engines and ranks
NOISE_MIB = 3000  # by how much memory may grow beside the run before Ray's monitor strikes
LEFT_SHARE = 0.13  # of the memory, for others: a ballast never takes it


def title(process: psutil.Process) -> str:
    """Ray and vLLM set the command line of their processes to what they are."""
    try:
        return " ".join(process.cmdline()).strip() or process.name()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def parts(processes: Sequence[psutil.Process], kind: str) -> list[psutil.Process]:
    """The processes that a strike of this kind may choose from."""
    if kind in WORKERS:
        return [p for p in processes if title(p).startswith(WORKERS[kind])]
    if kind in ("engine", "hang"):
        return [p for p in processes if "EngineCore" in title(p)]
    if kind == "raylet":
        raylets = [p for p in processes if "raylet/raylet" in title(p).split(" ")[0]]
        return [p for p in raylets if "--head" not in title(p)]
    if kind == "memory":
        return [p for worker in WORKERS for p in parts(processes, worker)]
    return list(processes) if kind == "cluster" else []


def present(kinds: Sequence[str], started: Sequence[psutil.Process]) -> list[str]:
    """The kinds that have something to strike; the driver always is there."""
    return [k for k in kinds if k in ("driver", "disk") or parts(started, k)]


def choose(
    rng: random.Random, kinds: Sequence[str], phase: str, struck: Counter[tuple[str, str]]
) -> str:
    """The kind that was struck least often in this phase, then least often at all."""

    def rank(kind: str) -> tuple[int, int, float]:
        total = sum(n for (other, _), n in struck.items() if other == kind)
        return struck[kind, phase], total, rng.random()

    return min(kinds, key=rank)


def lacking(
    there: Sequence[str],
    phase: str,
    struck: Counter[tuple[str, str]],
    kinds: Sequence[str],
    num_kills: int,
    num_phases: int,
) -> list[str]:
    """Those of `there` that still lack strikes in this phase; all, once no kind lacks any."""
    if not shortfall(struck, kinds, num_kills, num_phases):
        return list(there)
    share = -(-num_kills // max(1, num_phases))
    return [kind for kind in there if struck[kind, phase] < share]


def shortfall(
    struck: Counter[tuple[str, str]], kinds: Sequence[str], num_kills: int, num_phases: int
) -> list[str]:
    """Kinds that came less often, or in fewer phases, than was asked."""
    told = []
    for kind in kinds:
        own = {phase: n for (other, phase), n in struck.items() if other == kind}
        if sum(own.values()) < num_kills or len(own) < num_phases:
            told.append(
                f"{kind} was struck {sum(own.values())} times in {len(own)} phases, expected "
                f"{num_kills} in {num_phases}"
            )
    return told


def hang(rng: random.Random, engines: Callable[[], list[psutil.Process]], phase: Callable[[], str],
         is_over: Callable[[], bool]) -> bool:  # fmt: skip
    """Stop an engine; every second time in a push, which is waited for. False: there was none."""
    deadline = time.monotonic() + (PUSH_WAIT_S if rng.random() < 0.5 else 0)
    while time.monotonic() < deadline and not is_over() and not phase().endswith("push"):
        time.sleep(LOOK_EVERY_S)
    found = engines()
    for process in rng.sample(found, min(1, len(found))):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    return bool(found)


def fill_disk(process: psutil.Process) -> Callable[[], None]:
    """Let the process write no file beyond FULL_AT_BYTES; returns what takes that back."""
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (FULL_AT_BYTES, before[1]))

    def free() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(resource.RLIMIT_FSIZE, before)

    return free


def strike_memory(victims: Sequence[psutil.Process], ballast_mib: int) -> list[psutil.Process]:
    """Fill the memory until Ray's monitor has ended one of these; returns those that are gone."""
    left_mib = int(LEFT_SHARE * psutil.virtual_memory().total / 2**20)
    ballast = subprocess.Popen([sys.executable, "-c", BALLAST, str(ballast_mib), str(left_mib)])
    try:
        deadline = time.monotonic() + BALLAST_DEADLINE_S
        while time.monotonic() < deadline:
            if gone := [p for p in victims if not p.is_running()]:
                return gone
            time.sleep(LOOK_EVERY_S)
        return []
    finally:
        ballast.kill()
        ballast.wait(10)


def memory_settings() -> dict[str, str]:
    """Ray's settings with which a ballast makes its monitor strike, and hardly anything else: the
    threshold lies where the memory is now, plus the run itself, plus some noise.

    Raises:
        ValueError: the machine has not enough memory left for that.
    """
    memory = psutil.virtual_memory()
    used, total = memory.total - memory.available, memory.total
    share = (used + (RUN_MIB + NOISE_MIB) * 2**20) / total
    if share > 1 - LEFT_SHARE:
        raise ValueError(
            f"--ballast: a run needs {RUN_MIB + NOISE_MIB} MiB below {1 - LEFT_SHARE:.0%} of the "
            f"memory, and {used / total:.0%} of {total / 2**20:.0f} MiB are in use: end what runs "
            "beside it, or leave `memory` out of --targets"
        )
    return {"RAY_memory_usage_threshold": f"{share:.3f}", "RAY_memory_monitor_refresh_ms": "250"}
