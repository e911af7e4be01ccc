"""Everything that is particular to DeepSpeed: process group, ZeRO engine, gathering, checkpoints.

Guarantees: gradients are summed exactly as the loss says (the caller owns the boundary of gradient
accumulation, DeepSpeed adds no factor of its own but the mean over ranks, which `backward` undoes);
gathered tensors are copies that outlive the gathering; a gradient norm that is no number is known
before anything moves; a checkpoint is read as data, never as code. Every function here is called by
all ranks together. Knows models only as modules with named parameters.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from virgo_ray.config import TrainConfig
from virgo_ray.errors import TrainingError
from virgo_ray.train.optimizer import FrugalAdamW, groups_of
from virgo_ray.train.process import free_memory
from virgo_ray.train.rearrange import Cut, Rearranged, model_file, optimizer_files
from virgo_ray.train.sizes import (
    BUCKET_ELEMENTS,
    CPU_BUCKET_ELEMENTS,
    REDUCE_ELEMENTS,
    UPDATE_ELEMENTS,
    sums_in_float32,
)

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns and looks around
os.environ.setdefault("LOCAL_RANK", "0")  # one device per process: Ray hides the others

import deepspeed
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils.tensor_fragment import safe_get_full_fp32_param, safe_set_full_fp32_param
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from virgo_ray.train.zero_files import load_as_data, write_file
from virgo_ray.train.zero_globals import forget_modules, leave_second_group, share_second_group

deepspeed_logger.setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
if not torch.cuda.is_available():
    # On CPU the only op it would use is an inference kernel that takes a compiler and two minutes.
    deepspeed.ops.__compatible_ops__ = {}
share_second_group()

COLLECTIVE_DEADLINE = datetime.timedelta(hours=12)


def join_group(rank: int, world_size: int, store: dist.Store, cfg: TrainConfig) -> None:
    """Enter the process group (gloo or NCCL).

    The driver ends ranks that show no progress within the step deadline. A collective waits far
    longer, because rank 0 may be hashing a checkpoint of a terabyte meanwhile, which is progress.
    """
    dist.init_process_group(
        backend="nccl" if cfg.gpus_per_worker else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_DEADLINE,
    )
    with quiet():
        deepspeed.init_distributed(dist_init_required=False)


def leave_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def zero_config(
    cfg: TrainConfig, dtype: torch.dtype, hidden_size: int, is_training: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration; micro-batch sizes are nominal, the Plan decides.

    A bfloat16 model's gradients are summed, over micro-batches and over ranks, in float32 where the
    stage can (`sums_in_float32`). On a GPU they are reduced while the backward pass goes on. For
    scoring only, parameters are partitioned in stage 3 and nothing is in the others.

    Raises:
        TrainingError: `zero_hpz_partition_size` does not divide the ranks.
    """
    stage = cfg.zero_stage if is_training or cfg.zero_stage == 3 else 0
    is_float32 = dtype == torch.float32
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if stage == 0 and is_float32 else cfg.max_grad_norm,
        "bf16": {"enabled": not is_float32},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": stage,
            **_zero_settings(cfg, hidden_size),
            "overlap_comm": bool(cfg.gpus_per_worker) and stage >= 2,
            **_offloads(cfg, stage, is_training),
        },
    }
    if not is_float32 and sums_in_float32(stage):
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    return _with_passed(config, cfg) if stage else config


def _zero_settings(cfg: TrainConfig, hidden_size: int) -> dict[str, Any]:
    is_gpu = bool(cfg.gpus_per_worker)
    bucket = BUCKET_ELEMENTS if is_gpu else CPU_BUCKET_ELEMENTS
    return {
        "reduce_bucket_size": REDUCE_ELEMENTS if is_gpu else CPU_BUCKET_ELEMENTS,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket // 4,
        "stage3_param_persistence_threshold": 10 * hidden_size,
        "sub_group_size": UPDATE_ELEMENTS,
    }


def _offloads(cfg: TrainConfig, stage: int, is_training: bool) -> dict[str, Any]:
    """What lies in host memory. Memory is pinned for the copies between it and a GPU alone."""
    place = {"device": "cpu", "pin_memory": bool(cfg.gpus_per_worker)}
    settings: dict[str, Any] = {}
    if cfg.offload != "none" and is_training:
        settings["offload_optimizer"] = place
    if cfg.offload == "optimizer_and_parameters" and stage == 3:
        settings["offload_param"] = place
    return settings


def _with_passed(config: dict[str, Any], cfg: TrainConfig) -> dict[str, Any]:
    """`config` with what `train.deepspeed` says, which the config has checked."""
    passed = cfg.deepspeed.get("zero_optimization", {})
    if cfg.num_workers % (size := passed.get("zero_hpz_partition_size", 1)):
        raise TrainingError(
            f"train.deepspeed.zero_optimization.zero_hpz_partition_size={size} does not divide "
            f"train.num_workers={cfg.num_workers}; expected the ranks of one node, as many on each"
        )
    zero = config["zero_optimization"] | passed
    return {**config, **cfg.deepspeed, "zero_optimization": zero}


@contextlib.contextmanager
def sharded_loading(config: dict[str, Any]) -> Iterator[None]:
    """Inside, `from_pretrained` partitions every parameter as it is loaded (ZeRO-3 only)."""
    if config["zero_optimization"]["stage"] != 3:
        yield
        return
    keep_alive = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del keep_alive


class ZeroEngine:
    """A DeepSpeed engine around a module whose forward gives what the loss is made of."""

    def __init__(self, module: nn.Module, config: dict[str, Any], cfg: TrainConfig | None) -> None:
        """Without `cfg` there is no optimizer: the module can only be evaluated."""
        self._base: FrugalAdamW | None = None
        self._trainable = [p for p in module.parameters() if p.requires_grad]
        self._max_norm = math.inf
        self._own_norm: float | None = None
        self._check: Callable[[float], None] = lambda norm: None
        self._optimizer: Any = None  # while ZeRO-3 is built it already makes a step of zeros
        self._weight_decay = cfg.weight_decay if cfg else 0.0
        self._stage: int = config["zero_optimization"]["stage"]
        self._frozen = [p for p in module.parameters() if not p.requires_grad]
        if cfg is not None:
            groups = _update_groups(self._trainable, config)
            is_fused = bool(cfg.gpus_per_worker)
            self._base = FrugalAdamW(groups, is_fused, lr=0.0, weight_decay=cfg.weight_decay)
            if _clips_itself(config):
                self._max_norm = cfg.max_grad_norm
            self._base.register_step_pre_hook(self._look_at_norm)
        with quiet():
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=module, optimizer=self._base, config=config, dist_init_required=False
            )
        if self._base is not None:  # without ZeRO DeepSpeed makes a step of zeros, too
            for state in self._base.state.values():
                state["step"].zero_()
        self._world_size = dist.get_world_size()

    @property
    def device(self) -> torch.device:
        return self._engine.device

    def __call__(self, *args: Any) -> Tensor:
        return self._engine(*args)

    def train(self, is_training: bool) -> None:
        """Switch the module to training, or to scoring."""
        self._engine.train(is_training)

    def allocate(self) -> None:
        """Make what the first optimizer step would make for good."""
        assert self._base is not None, "an engine for scoring has no optimizer"
        self._base.allocate()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, a share of a sum over all ranks."""
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def step(self, learning_rate: float, check: Callable[[float], None]) -> float:
        """Clip, update, clear gradients; returns the gradient norm before clipping.

        `check(norm)` is called before any parameter moves, on every rank with the same norm; what
        it raises leaves the parameters as they are. NaN stands for every norm that is not finite.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._check = check
        self._engine.step()
        norm = self._norm()
        check(norm)  # DeepSpeed leaves steps out on its own account: then nobody has looked
        return norm

    def _look_at_norm(self, *_: Any) -> None:
        """After the reduction and before the update. DeepSpeed knows the norm by then, except where
        it neither partitions nor converts: there gradients are clipped here."""
        if math.isfinite(self._max_norm):
            norm = nn.utils.get_total_norm([p.grad for p in self._trainable if p.grad is not None])
            self._own_norm = float(norm)
            self._check(self._norm())
            nn.utils.clip_grads_with_norm_(self._trainable, self._max_norm, norm)
        else:
            self._check(self._norm())

    def _norm(self) -> float:
        norm = self._own_norm
        if norm is None:
            norm = float(getattr(self._optimizer, "_global_grad_norm", math.nan))
        return norm if math.isfinite(norm) and norm >= 0 else math.nan  # -1: DeepSpeed's NaN

    def masters(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Float32 copies on the CPU of what AdamW updates, whole, on all ranks together.

        Stage 0 of a bfloat16 model keeps its own where they cannot be asked for: there these are
        the rounded values.
        """
        found: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            master = safe_get_full_fp32_param(parameter)
            found[name] = (parameter if master is None else master).detach().float().cpu().clone()
        return found

    def set_masters(
        self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]
    ) -> None:
        """Let AdamW go on from `values`, which the parameters hold already, rounded."""
        for name, parameter in parameters.items():
            safe_set_full_fp32_param(parameter, values[name].to(self.device))

    def begin_anew(self) -> None:
        """Have the optimizer be what it would be if the module had been loaded as it is now: its
        moments and steps are zero, its masters the parameters' values."""
        assert self._base is not None, "an engine for scoring has no optimizer"
        for state in self._base.state.values():
            for tensor in state.values():
                tensor.zero_()
        if hasattr(self._optimizer, "refresh_fp32_params"):  # else the parameters are the masters
            self._optimizer.refresh_fp32_params()
        self._own_norm = None

    @property
    def can_offload(self) -> bool:
        """Whether DeepSpeed can move the states away and bring them back: with torch's AdamW, ZeRO
        1 and 2."""
        return self._stage in (1, 2)

    def offload(self) -> None:
        """Move parameters, masters and moments to host memory; nothing may run until `reload`."""
        with quiet():
            self._engine.offload_states(pin_memory=self.device.type != "cpu")
        self._move_frozen(torch.device("cpu"))

    def reload(self) -> None:
        """Bring back what `offload` moved."""
        with quiet():
            self._engine.reload_states()
        self._move_frozen(self.device)

    def _move_frozen(self, device: torch.device) -> None:
        """The parameters that no optimizer has; DeepSpeed leaves them where they are."""
        for parameter in self._frozen:
            parameter.data = parameter.data.to(device)

    def save(self, directory: Path) -> None:
        """Write this rank's part of module and optimizer into `directory`.

        Raises:
            OSError: the file system refused.
        """
        self._engine.checkpoint_engine.save = write_file
        with quiet():
            self._engine.save_checkpoint(
                str(directory.parent),
                tag=directory.name,
                save_latest=False,
                exclude_frozen_parameters=True,
            )

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote, on any number of ranks.

        Raises:
            TrainingError: a file holds something else than DeepSpeed writes.
        """
        self._read_with(directory)
        with quiet():
            path, _ = self._engine.load_checkpoint(
                str(directory.parent), tag=directory.name, load_module_strict=False
            )
        if path is None:
            raise RuntimeError(f"DeepSpeed found no checkpoint in {directory}")
        for group in self._optimizer.param_groups:  # a fit before may have had another one
            group["weight_decay"] = self._weight_decay

    def _read_with(self, directory: Path) -> None:
        """Have DeepSpeed read `directory` as data, re-arranged where other ranks wrote it."""
        num_saved = len(optimizer_files(directory))
        if num_saved in (0, self._world_size):
            self._engine.checkpoint_engine.load = load_as_data
            return
        files = Rearranged(directory, partial(load_as_data, is_mapped=True), self._cut())
        self._engine._get_all_ckpt_names = lambda *_: [str(model_file(directory))]
        self._engine.checkpoint_engine.load = files.load

    def _cut(self) -> Cut:
        """How the optimizer's flat tensors are cut here."""
        optimizer, ranks = self._optimizer, (dist.get_rank(), self._world_size)
        if not hasattr(optimizer, "fp16_partitioned_groups_flat"):
            return Cut(*ranks, [p.numel() for p in optimizer.single_partition_of_fp32_groups])
        names = [[self._engine.param_names[p] for p in group] for group in optimizer.fp16_groups]
        return Cut(*ranks, [p.numel() for p in optimizer.fp32_partitioned_groups_flat], names)

    def close(self) -> None:
        """Free module and optimizer; the process group lives on."""
        self._engine.destroy()
        del self._engine, self._optimizer, self._base
        self._trainable.clear()
        self._frozen.clear()
        forget_modules()
        leave_second_group()
        free_memory()


def _clips_itself(config: dict[str, Any]) -> bool:
    return config["gradient_clipping"] == 0.0


def _update_groups(
    parameters: list[nn.Parameter], config: dict[str, Any]
) -> list[nn.Parameter] | list[dict[str, list[nn.Parameter]]]:
    """ZeRO 1 and 2 update a parameter group at a time, ZeRO-3 cuts its own (`sub_group_size`)."""
    if config["zero_optimization"]["stage"] not in (1, 2):
        return parameters
    return groups_of(parameters, [p.numel() for p in parameters], UPDATE_ELEMENTS)


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter], is_changing: bool = False) -> Iterator[None]:
    """Inside, the parameters are whole on every rank; copy what must outlive it. Never nest.

    With `is_changing`, what the first rank makes of them is kept on all ranks.
    """
    partitioned = [p for p in parameters if is_partitioned(p)]
    if not partitioned:
        yield
        return
    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if is_changing else None):
        yield


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 has spread it over the ranks."""
    return hasattr(parameter, "ds_id")


def is_first_rank() -> bool:
    return dist.get_rank() == 0


def full_size(parameter: nn.Parameter) -> int:
    """Number of elements, partitioned or not."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum; doubles as the point where all ranks agree on what comes next."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)  # deadline: the process group's
    return tensor.tolist()


def broadcast_from_first(value: Any) -> Any:
    """Rank 0's `value` (anything that pickles), on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """DeepSpeed prints its configuration and progress to stdout; keep that out of the logs."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        yield
