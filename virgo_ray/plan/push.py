"""How new weights will reach the engines, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.actors.rollouts.choice import Situation, choose_transport, read_allocator
from virgo_ray.config import Config
from virgo_ray.plan.ranks import BYTES
from virgo_ray.plan.seats import Seats
from virgo_ray.train.shape import ModelShape
from virgo_ray.weights.wire import GPU_BUCKET_BYTES

ON_DEVICE = ("ipc", "broadcast")


@dataclass(frozen=True)
class Push:
    """What `push.transport` means here, why, and the bytes of buckets on a GPU: the sender's, and
    the engine's copy of it."""

    transport: str
    why: str
    sender: int
    receiver: int


def plan_push(cfg: Config, shape: ModelShape, seats: Seats) -> Push:
    """For engines and trainers that are where `seats` says. What the allocator is told is read
    from the environment here."""
    choice = choose_transport(cfg, Situation(seats.nodes.num, read_allocator(cfg)))
    is_gpu = bool(cfg.rollout.gpus_per_worker) and choice.transport in ON_DEVICE
    itemsize = BYTES[cfg.model.dtype]
    bucket = min(itemsize * shape.saved, max(GPU_BUCKET_BYTES, itemsize * shape.largest))
    sender = bucket if is_gpu and cfg.train.gpus_per_worker else 0
    return Push(choice.transport, choice.why, sender, bucket if is_gpu else 0)
