"""What DeepSpeed keeps of an engine in globals, so that a process can have one after the other."""

from __future__ import annotations

import inspect

import deepspeed
from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator
from deepspeed.utils import groups


def forget_modules() -> None:
    """Empty the globals of DeepSpeed that keep a closed ZeRO-3 engine, and with it all its memory.

    One is the stack of modules in their forward pass: recomputation pushes and never pops. The
    other is a cache of a method's results, whose keys are the object and its modules.
    """
    parameter_offload.FWD_MODULE_STACK.clear()
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    method = getattr(coordinator, f"_{coordinator.__name__}__params_to_release")
    inspect.getclosurevars(method).nonlocals["func"].cache_clear()


def share_second_group() -> None:
    """Have the ranks that keep a second copy of the weights (`zero_hpz_partition_size`) form one
    group. DeepSpeed makes it for every model that is loaded, and refuses to make it again."""
    make = groups._create_zero_param_parallel_group

    def make_once(size: int) -> None:
        if groups._get_zero_param_intra_parallel_group() is None:
            make(size)

    groups._create_zero_param_parallel_group = make_once


def leave_second_group() -> None:
    """A closed engine's; the next one's may be of another size, or there is none."""
    group = groups._get_zero_param_intra_parallel_group()
    if group is not None:
        deepspeed.comm.destroy_process_group(group)
