"""What several test files of real trainers share."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from virgo_ray.config import TrainConfig
from virgo_ray.train import zero


@pytest.fixture(scope="session")
def one_rank() -> Iterator[None]:
    """This process as a group of one rank. DeepSpeed keeps the first group of a process for good:
    one that was left and entered again is not known to it."""
    torch.set_num_threads(1)  # threads that wait for each other cost more than they bring
    zero.join_group(0, 1, dist.HashStore(), TrainConfig(gpus_per_worker=0))
    yield
    zero.leave_group()
