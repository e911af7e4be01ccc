"""How many pictures two engines process in one exploration, with and without sticky routing.

    python scripts/bench_routing.py [NUM_PROBLEMS] [NUM_SAMPLES]

The tiny model on CPU, two engines behind the rollout pool of a run. "without" asks the engine that
has least to do, whatever the problem is. Both must sample the same tokens.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import ray

from virgo_ray.actors.rollouts import sampling
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.routing import Routes
from virgo_ray.actors.rollouts.slot import Slot, Target
from virgo_ray.config import Config, load_config
from virgo_ray.model.files import resolve_model
from virgo_ray.records import Problem, Request, Weights
from virgo_ray.tiny.draw import write_picture
from virgo_ray.tiny.puzzles import make_puzzles
from virgo_ray.weights.probe import Probe

ROOT = Path(__file__).parents[1]
OVERRIDES = (
    "rollout.kv_cache_gib=0.1",
    "rollout.max_in_flight=32",
    "explore.sampling.max_tokens=64",
)
DEFAULTS = (100, 8)
Sampled = dict[tuple[str, int], tuple[int, ...]]


class LeastLoaded(Routes[Slot]):
    """No problem has an engine of its own."""

    def _home(self, problem: str, idlest: Slot) -> Slot:
        return idlest


def explore(
    pool: RolloutPool, version: int, requests: Sequence[Request], cfg: Config
) -> tuple[Sampled, float, float]:
    """(tokens, pictures processed, seconds) of one exploration; a new version empties caches."""
    path = resolve_model(cfg.model.path, cfg.model.trust_remote_code)
    pool._workers.serve(Target(Weights(version, path), Probe((), ())))
    before, started = pool.metrics()["rollout_pictures_processed"], time.monotonic()
    tokens = {r.key: r.token_ids for r in pool.sample(requests, cfg.explore.sampling)}
    seconds = time.monotonic() - started
    return tokens, pool.metrics()["rollout_pictures_processed"] - before, seconds


def main() -> int:
    given = [int(word) for word in sys.argv[1:]]
    num_problems, num_samples = (*given, *DEFAULTS[len(given) :])
    found: list[Sampled] = []
    with tempfile.TemporaryDirectory() as directory:
        cfg = load_config(str(ROOT / "configs/tiny.yaml"), [*OVERRIDES, f"run_dir={directory}"])
        problems = [
            Problem(p.id, p.question, p.answer, (str(write_picture(p, Path(directory))),))
            for p in make_puzzles("train", num_problems, 0)
        ]
        requests = [Request(p, i, seed=i) for p in problems for i in range(num_samples)]
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        print(f"{num_problems} problems, {num_samples} samples of each, 2 engines")
        with closing(RolloutPool(cfg)) as pool:
            pool.come_up()
            for version, (name, routes) in enumerate(
                (("without", LeastLoaded), ("with", Routes)), start=1
            ):
                sampling.Routes = routes  # type: ignore[misc, assignment]
                tokens, pictures, seconds = explore(pool, version, requests, cfg)
                found.append(tokens)
                print(f"{name:8} {pictures:5.0f} pictures processed, {seconds:5.1f} s")
        ray.shutdown()
    is_same = found[0] == found[1]
    print("same tokens" if is_same else "DIFFERENT TOKENS")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
