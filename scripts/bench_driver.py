"""How many rollouts a second the driver hands out and collects, with engines that only sleep.

    python scripts/bench_driver.py [--slots 1000] [--in-flight 256] [--mean-s 20] [--hosts 4]
        [--run-s 40] [--tokens 2000] [--judge]

The pool, its slots, `sample`, Ray and the workers' own queues are the real ones. An engine is a
timer: a rollout of `--tokens` token ids comes after 0 to 2 times `--mean-s` seconds. Thousands of
processes do not fit on one machine, so each of `--hosts` actors stands for many slots: a call to a
slot is a real Ray call to its host, with the same arguments and results. The driver does what it
would do for as many actors; what is missing is their network, and their processors are this
machine's. After `--run-s` seconds the consumer leaves, as at an interrupt.

`--judge` sends the rollouts through the monitor's wrappers, the verifier pool and the replay buffer
as an exploration does; the verdicts are made up, in the verifiers' actors.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import ray

from virgo_ray.actors.rollouts import workers
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.slot import Slot
from virgo_ray.actors.rollouts.worklist import Finished, Worklist
from virgo_ray.actors.verifiers import pool as verifiers
from virgo_ray.config import Config, SamplingConfig, load_config
from virgo_ray.monitor.metrics import Metrics
from virgo_ray.monitor.progress import Progress
from virgo_ray.monitor.watch import Monitor, WatchedRollouts, WatchedVerifiers
from virgo_ray.records import Problem, Request, Rollout, Status, Verdict
from virgo_ray.selection.measuring import measuring_for
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.weights.probe import ProbeItem
from virgo_ray.weights.verdict import Evidence

ROOT = Path(__file__).parents[1]
SAMPLES = 8  # of a problem
MANY_CALLS = 100_000
STEP_S = 5.0  # between two lines
MIB = 2**20


class Host:
    """The workers of many slots in one process."""

    def __init__(self, num_tokens: int, mean_s: float) -> None:
        self._ids = tuple(random.randrange(150_000) for _ in range(num_tokens - 1))
        self._text = "word " * num_tokens
        self._mean_s = mean_s
        self._worklists: dict[int, Worklist] = {}

    async def where(self, slot: int) -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def start(self, slot: int) -> None:
        self._worklists[slot] = Worklist(self._generate)

    async def load(
        self, slot: int, weights: object, items: Sequence[ProbeItem], *_: object
    ) -> Evidence:
        return Evidence([[-1.0] * len(item.target_ids) for item in items])

    async def exchange(
        self, slot: int, requests: Mapping[int, Request], sampling: SamplingConfig, linger_s: float
    ) -> Finished:
        return await self._worklists[slot].exchange(requests, sampling, linger_s)

    async def poke(self, slot: int) -> None:
        self._worklists[slot].poke()

    async def abort(self, slot: int, numbers: Collection[int]) -> int:
        return await self._worklists[slot].end(numbers)

    async def beat(self, slot: int) -> float:
        return 1.0

    async def num_pictures(self, slot: int) -> int:
        return 0

    async def close(self, slot: int) -> None:
        pass

    async def _generate(self, request: Request, sampling: SamplingConfig) -> Rollout:
        seconds = random.uniform(0, 2 * self._mean_s)
        await asyncio.sleep(seconds)
        ids = (request.seed % 1000, *self._ids)
        text = f"{request.seed} {self._text}"
        settings = {**sampling.model_dump(), "seed": request.seed}
        return Rollout(
            request.problem, request.sample_index, text, ids, "stop", 0, settings, seconds
        )


class Hosted:
    """Stands for the actor of one slot."""

    def __init__(self, host: Any, slot: int) -> None:
        self._host, self._slot = host, slot

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._host, method)
        return SimpleNamespace(remote=lambda *args: call.remote(self._slot, *args))


class HostedSlot(Slot):
    """A slot whose actor lives with others in one process."""

    hosts: ClassVar[list[Any]] = []

    def _create(self) -> None:
        self.allow_time()
        self.actor = Hosted(self.hosts[self.index % len(self.hosts)], self.index)
        self.setup = self.actor.where.remote()

    def kill(self) -> None:
        """Hosts outlive their slots."""

    def processes(self) -> list[psutil.Process]:
        return []


class FakeVerifier:
    """Finds everything correct."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        pass

    def judge(self, items: Mapping[int, Any]) -> tuple[dict[int, Verdict], int]:
        verdict = Verdict(Status.CORRECT, "1", "boxed", verifier_version="fake")
        return dict.fromkeys(items, verdict), 0

    def close(self) -> None:
        pass


class Silent:
    """A screen that nobody looks at."""

    def update(self, progress: Progress, phase_changed: bool) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def requests() -> Iterator[Request]:
    for number in itertools.count():
        question = f"{number} How many squares are left of the circle? " * 4
        problem = Problem(f"problem-{number}", question, "1", (f"/data/pictures/{number}.png",))
        for sample in range(SAMPLES):
            yield Request(problem, sample, seed=number * SAMPLES + sample)


class Meter:
    """Counts rollouts; says every STEP_S how fast they came, and what the driver paid."""

    def __init__(self, run_s: float) -> None:
        self._run_s = run_s
        self._process = psutil.Process()
        self._began = self._step_at = time.monotonic()
        self._cpu = time.process_time()
        self._num = 0
        self.first_s = self.left_at = 0.0
        self.keys: set[tuple[str, int]] = set()

    def passed(self, rollouts: Iterator[Rollout | None]) -> Iterator[Rollout]:
        for rollout in filter(None, rollouts):
            now = time.monotonic()
            if not self.keys:
                self.first_s = now - self._began
                print(f"first rollout after {self.first_s:.2f} s", flush=True)
            if rollout.key in self.keys:
                raise SystemExit(f"{rollout.key} came twice")
            self.keys.add(rollout.key)
            self._num += 1
            if now - self._step_at > STEP_S:
                self._say(now)
            yield rollout
            if now - self._began > self._run_s:
                break
        self.left_at = time.monotonic()

    def _say(self, now: float) -> None:
        seconds, cpu = now - self._step_at, time.process_time()
        mib = self._process.memory_full_info().uss / MIB
        print(
            f"{now - self._began:5.0f} s {self._num / seconds:7.0f} rollouts/s, driver "
            f"{(cpu - self._cpu) / seconds:4.0%} of a core = "
            f"{1e6 * (cpu - self._cpu) / self._num:4.0f} us a rollout, {mib:5.0f} MiB of its own",
            flush=True,
        )
        self._step_at, self._cpu, self._num = now, cpu, 0


def explore(cfg: Config, pool: RolloutPool, meter: Meter, is_judged: bool) -> None:
    """Sample until the meter has enough; where `is_judged`, into the replay buffer."""
    if not is_judged:
        for _ in meter.passed(pool.sample(requests(), cfg.explore.sampling)):
            pass
        return
    verifiers.VerifierWorker = FakeVerifier  # type: ignore[misc, assignment]
    monitor = Monitor("bench", 1, Metrics([]), Silent())
    rollouts = WatchedRollouts(pool, monitor).sample(requests(), cfg.explore.sampling)
    judges = verifiers.VerifierPool(cfg.verify, {"num_cpus": 0})
    measuring = measuring_for(cfg.verify.formats, cfg.select)
    store = ReplayBuffer.open(Path(cfg.run_dir), measuring=measuring)
    judged = WatchedVerifiers(judges, monitor).judge(meter.passed(rollouts))
    for item in filter(None, judged):
        store.add(1, item)
    store.flush()
    judges.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--mean-s", type=float, default=20.0)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--run-s", type=float, default=40.0)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        overrides = (
            f"run_dir={directory}", f"rollout.num_workers={asked.slots}",
            f"rollout.max_in_flight={asked.in_flight}", "verify.num_workers=4",
        )  # fmt: skip
        cfg = load_config(str(ROOT / "configs/tiny.yaml"), overrides)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        host = ray.remote(Host).options(num_cpus=0, max_concurrency=MANY_CALLS)
        HostedSlot.hosts = [host.remote(asked.tokens, asked.mean_s) for _ in range(asked.hosts)]
        workers.Slot = HostedSlot  # type: ignore[misc]
        with closing(RolloutPool(cfg)) as pool:
            pool.come_up()
            pool.serve_base("nowhere")
            meter = Meter(asked.run_s)
            explore(cfg, pool, meter, asked.judge)
            left_s = time.monotonic() - meter.left_at
            num_out = pool.metrics()["rollout_requests_aborted"]
        print(f"{len(meter.keys)} rollouts, none twice; {num_out:.0f} in flight aborted")
        print(f"first after {meter.first_s:.2f} s, left in {left_s:.1f} s")
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
