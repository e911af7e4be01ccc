"""A checkpoint of some number of ranks, as another number of ranks reads it.

DeepSpeed cuts the optimizer's flat tensors by the number of ranks and refuses other cuts. Its own
way around (`ds_to_universal`, `load_universal`) writes all of it to disk once more and unpickles
it, code included. Here every rank reads what it needs of the old ranks' files, mapped into memory,
and hands DeepSpeed the part that it would have found: no file is written, and all is read as data.

Layouts (DeepSpeed 0.19.8): ZeRO 1 and 2 cut each parameter group, all its parameters in a row, into
equal parts; ZeRO-3 cuts each parameter, padded to a multiple of the ranks, and lines its parts up
in the order of `param_shapes`. Every length is checked against those of the engine that loads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virgo_ray.errors import TrainingError

Load = Callable[[str], Any]  # a file of a checkpoint, as data
OPTIMIZER_FILE = re.compile(r"zero_pp_rank_(\d+)_.*optim_states\.pt$")
MODEL_FILES = "*model_states.pt"
MASTER = "fp32"  # in place of an optimizer state's name: the master weights


@dataclass(frozen=True)
class Cut:
    """How the engine that loads cuts its optimizer: this rank's elements of each flat tensor.

    In ZeRO-3 `names` are the parameters of each flat tensor, in order; else they are not needed.
    """

    rank: int
    num_ranks: int
    sizes: Sequence[int]
    names: Sequence[Sequence[str]] = ()


def optimizer_files(directory: Path) -> list[Path]:
    """The partitions of the optimizer by rank; empty where it was not partitioned."""
    found = [(m, p) for p in directory.iterdir() if (m := OPTIMIZER_FILE.search(p.name))]
    return [path for match, path in sorted(found, key=lambda pair: int(pair[0][1]))]


def model_file(directory: Path) -> Path:
    """The first rank's model states; those of all ranks are alike."""
    return min(directory.glob(MODEL_FILES))


class Rearranged:
    """The files of `directory`, as DeepSpeed's `checkpoint_engine.load` is asked for them."""

    def __init__(self, directory: Path, load: Load, cut: Cut) -> None:
        self._directory = directory
        self._load = load
        self._cut = cut
        self._model = {**load(str(model_file(directory))), "dp_world_size": cut.num_ranks}

    def load(self, path: str, map_location: Any = None) -> Any:
        """What this rank would find at `path`, had as many ranks written it as read it now.

        Raises:
            TrainingError: the checkpoint is laid out in another way.
        """
        return self._model if path.endswith("model_states.pt") else self._optimizer()

    def _optimizer(self) -> dict[str, Any]:
        try:
            shapes: list[dict[str, torch.Size]] = self._model["param_shapes"]
            files = optimizer_files(self._directory)
            states = [self._load(str(file))["optimizer_state_dict"] for file in files]
            is_stage3 = "fp32_flat_groups" in states[0]
            made = self._stage3(states, shapes) if is_stage3 else self._stage2(states, shapes)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self._refused(repr(error)) from error
        return {"optimizer_state_dict": made}

    # -- ZeRO 1 and 2 ----------------------------------------------------------------------------

    def _stage2(
        self, states: Sequence[dict[str, Any]], shapes: Sequence[dict[str, torch.Size]]
    ) -> dict[str, Any]:
        base = [state["base_optimizer_state"] for state in states]
        masters, moments = [], {}
        for group, named in enumerate(shapes):
            total = sum(shape.numel() for shape in named.values())
            parts = [state["single_partition_of_fp32_groups"][group] for state in states]
            masters.append(self._slice(parts, total, group))
            moments[group] = {
                key: self._slice([b["state"][group][key] for b in base], total, group)
                if value.dim()
                else value.clone()
                for key, value in base[0]["state"][group].items()
            }
        optimizer = {**base[0], "state": moments}
        masters_key = "single_partition_of_fp32_groups"
        return {**states[0], "base_optimizer_state": optimizer, masters_key: masters}

    def _slice(self, parts: Sequence[Tensor], total: int, group: int) -> Tensor:
        """This rank's part of a group of `total` elements, which `parts` hold, padded or not."""
        size, start = self._cut.sizes[group], self._cut.sizes[group] * self._cut.rank
        if sum(part.numel() for part in parts) < total or size * self._cut.num_ranks < total:
            raise self._refused(f"group {group} has {total} elements, in parts of other sizes")
        return _piece(parts, start, min(start + size, total), size)

    # -- ZeRO-3 ----------------------------------------------------------------------------------

    def _stage3(
        self, states: Sequence[dict[str, Any]], shapes: Sequence[dict[str, torch.Size]]
    ) -> dict[str, Any]:
        optimizers = [state["optimizer_state_dict"] for state in states]
        saved = optimizers[0]["state"]
        keys = [key for key, value in saved[0].items() if value.dim()]
        lanes = {
            MASTER: [state["fp32_flat_groups"] for state in states],
            **{
                key: [[o["state"][g][key] for g in range(len(saved))] for o in optimizers]
                for key in keys
            },
        }
        made = {key: self._partitions(lane, shapes) for key, lane in lanes.items()}
        counts = {key: value for key, value in saved[0].items() if not value.dim()}
        num_groups = len(self._cut.sizes)
        moments: dict[int, dict[str, Tensor]] = {}
        for g in range(num_groups):  # counts are added to in place: each group has its own
            own = {key: value.clone() for key, value in counts.items()}
            moments[g] = own | {key: made[key][g] for key in keys}
        (group,) = optimizers[0]["param_groups"]
        groups = [{**group, "params": list(range(num_groups))}]
        return {
            **states[0],
            "optimizer_state_dict": {"state": moments, "param_groups": groups},
            "fp32_flat_groups": made[MASTER],
        }

    def _partitions(
        self, lane: Sequence[Sequence[Tensor]], shapes: Sequence[dict[str, torch.Size]]
    ) -> list[Tensor]:
        """This rank's flat tensors of one kind. `lane[r]` are those of old rank `r`, which follow
        each other without a seam."""
        places, offset = {}, 0
        for name, shape in (item for named in shapes for item in named.items()):
            share = math.ceil(shape.numel() / len(lane))
            places[name] = (offset, share, shape.numel())
            offset += share
        if any(sum(part.numel() for part in own) != offset for own in lane):
            raise self._refused(f"its ranks hold other sizes than {offset}")
        made = []
        for names, size in zip(self._cut.names, self._cut.sizes, strict=True):
            flat = torch.cat([self._partition(lane, *places[name]) for name in names])
            if flat.numel() != size:
                raise self._refused(f"a part has {flat.numel()} elements, expected {size}")
            made.append(flat)
        return made

    def _partition(
        self, lane: Sequence[Sequence[Tensor]], offset: int, share: int, numel: int
    ) -> Tensor:
        """This rank's part of a parameter that starts at `offset` in every old rank."""
        parts = [_piece(own, offset, offset + share, share) for own in lane]
        size = math.ceil(numel / self._cut.num_ranks)
        start = min(size * self._cut.rank, numel)
        return _piece(parts, start, min(start + size, numel), size)

    def _refused(self, why: str) -> TrainingError:
        return TrainingError(
            f"{self._directory} cannot be re-arranged for {self._cut.num_ranks} ranks: {why}. Set "
            "train.num_workers back, or move the directory aside: then this round is trained from "
            "its start"
        )


def _piece(parts: Sequence[Tensor], start: int, stop: int, size: int) -> Tensor:
    """Elements `start` to `stop` of `parts` in a row, with zeros behind them up to `size`."""
    made, offset = torch.zeros(size, dtype=parts[0].dtype), 0
    for part in parts:
        first, last = max(start, offset), min(stop, offset + part.numel())
        if first < last:
            made[first - start : last - start] = part[first - offset : last - offset]
        offset += part.numel()
    return made
