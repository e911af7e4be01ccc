"""An engine that sleeps and takes weights, as a process: `push_engine.py cuda|cpu`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil

from train_checks.side import Commands, Say, serve
from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig
from virgo_ray.records import Weights
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.probe import ProbeItem

T = TypeVar("T")
MAX_LENGTH = 384
MAX_PIXELS = 200_704  # 256 tokens
ITEMS = (
    ProbeItem(tuple(range(5, 25)), tuple(range(30, 60))),
    ProbeItem(tuple(range(100, 150)), tuple(range(200, 260))),
)


class Engine:
    """One engine and its event loop."""

    def __init__(self, device: str) -> None:
        self._is_gpu = device == "cuda"
        self._loop = asyncio.new_event_loop()
        self._engine: Any = None

    def start(self, path: str, other: str) -> dict[str, Any]:
        """Log-probabilities with the weights of `path`, which it serves then, and of `other`.

        Where vLLM cannot be imported the answer says why under `absent`.
        """
        try:
            from virgo_ray.rollout.engine import RolloutEngine
        except ImportError as error:
            return {"absent": str(error)}
        place: dict[str, Any] = {"kv_cache_gib": 0.1, "max_in_flight": 4, "enforce_eager": True}
        if self._is_gpu:
            place |= {"gpus_per_worker": 1, "gpu_memory_utilization": 0.2}
        pixels = {"max_pixels": MAX_PIXELS} if self._is_gpu else {}
        model = ModelConfig(path=path, dtype="bfloat16", max_length=MAX_LENGTH, **pixels)
        self._engine = RolloutEngine(model, PromptConfig(), RolloutConfig(**place), can_sleep=True)
        self._run(self._engine.start())
        first = self._score()
        self._run(self._engine.load(Weights(1, other)))
        second = self._score()
        self._run(self._engine.load(Weights(0, path)))
        return {"base": first, "other": second}

    def sleep(self) -> dict[str, Any]:
        self._run(self._engine.sleep())
        return {}

    def wake(self) -> dict[str, Any]:
        self._run(self._engine.wake())
        return {}

    def load(self, offer: dict[str, Any], path: str) -> dict[str, Any]:
        """The digest of what came. The KV cache wakes at the end of it."""
        self._run(self._engine.load(Weights(1, path), Offer(**offer)))
        return {"read": self._engine.read}

    def score(self) -> dict[str, Any]:
        return {"scores": self._score()}

    def host(self) -> dict[str, Any]:
        """Bytes of host memory of this process and vLLM's: resident, and pinned."""
        mine = psutil.Process()
        processes = [mine, *mine.children(recursive=True)]
        pinned = sum(_pinned_bytes(process.pid) for process in processes)
        return {"resident": sum(p.memory_info().rss for p in processes), "pinned": pinned}

    def close(self) -> dict[str, Any]:
        self._engine.close()
        return {}

    def _score(self) -> list[float]:
        return [value for row in self._run(self._engine.score(ITEMS)) for value in row]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)


def _pinned_bytes(pid: int) -> int:
    """As the kernel counts it: what a driver keeps in place for its device."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields.get(name, "0 kB").split()[0]) for name in ("VmPin", "VmLck")) * 1024


def main() -> None:
    device = sys.argv[1]
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def commands(say: Say) -> Commands:
        engine = Engine(device)
        names = ("start", "sleep", "wake", "load", "score", "host", "close")
        return {name: getattr(engine, name) for name in names}

    serve(commands)


if __name__ == "__main__":
    main()
