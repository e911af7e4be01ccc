"""The files of DeepSpeed's checkpoints: written so that a full disk is named, and read as data.

Knows no engine and no ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from virgo_ray.errors import TrainingError


def write_file(state_dict: Any, path: str) -> None:
    """What DeepSpeed keeps, to `path`. Where a disk refuses, torch's own writer says only which
    position of the file it did not expect: Python's, which is slower, says why."""
    try:
        torch.save(state_dict, path)
    except RuntimeError:
        try:
            with open(path, "wb") as file:
                torch.save(state_dict, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_as_data(path: str, map_location: Any = None, is_mapped: bool = False) -> Any:
    """What DeepSpeed wrote to `path`. It would unpickle whatever is there, code included.

    `is_mapped`: tensors stay in the file, on the CPU, until they are used.
    """
    with torch.serialization.safe_globals([fragment_address, LossScaler, ZeroStageEnum]):
        if strange := torch.serialization.get_unsafe_globals_in_checkpoint(path):
            raise TrainingError(
                f"{path} names {strange[0]}, which no checkpoint of a trainer holds: it was not "
                "loaded. Move its directory aside, and the same command goes on without it"
            )
        where = "cpu" if is_mapped else map_location
        return torch.load(path, map_location=where, weights_only=True, mmap=is_mapped)
