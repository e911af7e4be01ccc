"""How much host memory the actors of a config need, as far as that can be said before they start.

Two figures: the least, which is certain, and what is likely. They are sums over the cluster, of
engines and trainer ranks on CPU and of verifiers; what runs on GPUs is not counted. Does not know
what the cluster has.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.model.files import TINY, TINY_DIRECTORY

GIB = 1024**3
# Processes without model and cache, measured as memory that is not shared: an actor and its engine
# hold 1.2 GiB with the bundled model, a trainer rank 0.5, a verifier and its judging process 0.13.
ENGINE_GIB, RANK_GIB, VERIFIER_GIB = 0.9, 0.4, 0.1
LIKELY_FACTOR = 1.4  # of those, once they work
# Gradients, AdamW's two moments and a master copy in float32, over all ranks together: a full
# fine-tuning. LoRA needs less, so this is likely and not certain.
STATE_BYTES = 16
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class HostMemory:
    """In GiB, over all nodes."""

    least: float
    likely: float


def host_memory(cfg: Config, has_trainer: bool = True) -> HostMemory:
    """What the actors of `cfg` need without GPUs.

    Fifteen engines of the bundled model with a KV cache of 0.25 GiB need at least 17 GiB.
    """
    parameters = num_parameters(cfg.model.path)
    weights = parameters * BYTES[cfg.model.dtype] / GIB
    engines = 0 if cfg.rollout.gpus_per_worker else cfg.rollout.num_workers
    ranks = 0 if cfg.train.gpus_per_worker or not has_trainer else cfg.train.num_workers
    models = (engines + ranks) * weights + engines * cfg.rollout.kv_cache_gib
    processes = engines * ENGINE_GIB + ranks * RANK_GIB + cfg.verify.num_workers * VERIFIER_GIB
    states = parameters * STATE_BYTES / GIB if ranks else 0.0
    return HostMemory(models + processes, models + states + LIKELY_FACTOR * processes)


def num_parameters(path: str) -> int:
    """Of a model whose files are on this machine, from their headers; 0 for one on a hub.

    Raises:
        ConfigError: a file is no safetensors file.
    """
    directory = TINY_DIRECTORY if path == TINY else Path(path).expanduser()
    return sum(_in_file(file) for file in sorted(directory.glob("*.safetensors")))


def _in_file(file: Path) -> int:
    with file.open("rb") as f:
        try:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
            shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        except (struct.error, ValueError, LookupError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{file} is no safetensors file ({error}); fetch the model again"
            ) from error
    return sum(math.prod(shape) for shape in shapes)
