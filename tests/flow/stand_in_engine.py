"""A rollout worker without an engine: what it samples is a function of request and weights."""

import asyncio
import os
import random
from pathlib import Path

import ray

from virgo_ray.actors.rollouts.worklist import Worklist
from virgo_ray.records import Rollout
from virgo_ray.weights.manifest import read_manifest
from virgo_ray.weights.verdict import Evidence

STEP_S = 0.02  # a rollout takes
LOGPROB = -1.0  # of every token of a probe


def sampled(request, sampling, version, worker=0):
    """What any worker would sample."""
    sampling = sampling.used_for(request.is_greedy)
    rng = random.Random(f"{request.seed}/{version}/{sampling.temperature}")
    said = rng.choice([request.problem.answer, request.problem.answer, "77"])
    ids = tuple(rng.randrange(100) for _ in range(rng.randint(3, 9)))
    return Rollout(
        request.problem, request.sample_index, rf"{ids} so \boxed{{{said}}}", ids, "stop", version,
        {"temperature": sampling.temperature}, worker=worker, is_greedy=request.is_greedy,
    )  # fmt: skip


class StandInWorker:
    """Takes the place of `RolloutWorker`: small, fast, and killed with its node like any actor."""

    def __init__(self, cfg, worker):
        self.worker = worker
        self.version = 0
        self.worklist = Worklist(self.generate)

    async def where(self):
        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def start(self):
        await asyncio.sleep(STEP_S)

    async def load(self, weights, items, cached, offer=None, must_load=False):
        await asyncio.sleep(STEP_S)
        self.version = weights.version
        files = read_manifest(Path(weights.path)).files if weights.version else {}
        return Evidence(
            [[LOGPROB] * len(item.target_ids) for item in items],
            {name: file.sha256 for name, file in files.items()},
            [LOGPROB] * len(cached),
        )

    async def exchange(self, requests, sampling, linger_s):
        return await self.worklist.exchange(requests, sampling, linger_s)

    async def poke(self):
        self.worklist.poke()

    async def generate(self, request, sampling):
        await asyncio.sleep(STEP_S)
        return sampled(request, sampling, self.version, self.worker)

    async def num_pictures(self):
        return 0

    async def beat(self):
        return 1.0

    async def sleep(self):
        pass

    async def wake(self):
        pass

    async def abort(self, numbers):
        return await self.worklist.end(numbers)

    async def close(self):
        pass
