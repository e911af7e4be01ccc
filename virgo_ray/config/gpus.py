"""How many GPUs each actor gets where a config does not say: it follows from where it runs.

Asked at every start, when actors are placed, and stored nowhere: the same run may go on on another
machine. Pure.
"""

from __future__ import annotations

from virgo_ray.config.whole import Config


def derive_gpus(cfg: Config, num_gpus: float) -> Config:
    """`cfg` with `gpus_per_worker` of engines and trainers set, for a cluster with `num_gpus`.

    Where both are left out, GPUs are used if there are any: one for each engine and each trainer
    rank. A model that one GPU cannot hold needs `rollout.gpus_per_worker`. Where one is set, the
    other goes to GPUs with it, or stays on the CPU with it. What is set stays.

    Example: engines over 8 GPUs each (`rollout.gpus_per_worker=8`) get trainer ranks of 1; on a
    machine without GPUs that asks for nothing, both are 0.
    """
    engines, ranks = cfg.rollout.gpus_per_worker, cfg.train.gpus_per_worker
    said = [number for number in (engines, ranks) if number is not None]
    one = int(any(said) if said else num_gpus >= 1)
    rollout = {"gpus_per_worker": one if engines is None else engines}
    train = {"gpus_per_worker": one if ranks is None else ranks}
    return cfg.model_copy(
        update={
            "rollout": cfg.rollout.model_copy(update=rollout),
            "train": cfg.train.model_copy(update=train),
        }
    )
