"""Sends a version that is held in memory to engines. The first rank's; knows no engines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.train.model import ADAPTER_NAME
from virgo_ray.train.publishing import Draft, Held
from virgo_ray.weights.adapter import AdapterUpdate, LowRank, find_changed
from virgo_ray.weights.offer import Stream
from virgo_ray.weights.opening import Opening, Sent
from virgo_ray.weights.streams import Sender, open_sender


class Sending:
    """One push: opened, sent once, closed."""

    def __init__(
        self,
        cfg: Config,
        held: Held,
        kind: Stream,
        address: str,
        labels: Sequence[str],
        deadline_s: float,
    ) -> None:
        """Open a meeting place at `address` for the receivers that `labels` name.

        Raises:
            WeightsError, TrainingError: the tensors cannot be had, or adapters cannot be named.
        """
        self._cfg = cfg
        self._held = held
        self._address = address
        self._tensors = held.tensors(deadline_s)
        self._update = self._make_update() if kind == "adapter" else None
        self._device = device_of(kind, cfg)
        self._sender: Sender = open_sender(
            kind, address, len(labels), deadline_s, self._device, labels
        )

    @property
    def opening(self) -> Opening:
        draft = self._held.draft
        return Opening(
            self._address, self._sender.port, self._sender.nonce, _base_of(draft), self._device,
            draft.probe, draft.gather_seconds,
        )  # fmt: skip

    def send(self) -> Sent:
        """Send to all receivers.

        Raises:
            WeightsError: a receiver did not come, failed, or was late; it is named.
        """
        began = time.monotonic()
        try:
            digest = self._sender.send(self._tensors.items(), self._update)
        finally:
            self._sender.close()
        return Sent(digest, time.monotonic() - began)

    def cancel(self, why: str) -> None:
        """End `send` soon, from another thread."""
        self._sender.cancel(why)

    def _make_update(self) -> AdapterUpdate:
        """Adapters and what was trained beside them, by names on disk."""
        draft, lora = self._held.draft, self._cfg.train.lora
        assert lora is not None, "adapters are sent where there are some"
        on_disk = {t.data_ptr(): name for name, t in self._tensors.items()}
        names = {name: on_disk.get(t.data_ptr(), "") for name, t in draft.tensors.items()}
        adapters = {
            _name_of(names, f"{module}.weight"): LowRank(down, up, lora.alpha / lora.rank)
            for module, (down, up) in _pairs(draft).items()
        }
        whole = frozenset(_name_of(names, name) for name in draft.trained)
        if draft.masters:  # what is frozen now may have been trained since the base
            base, known = Path(_base_of(draft)), adapters.keys() | whole
            whole |= find_changed(base, self._tensors, known)
        return AdapterUpdate(adapters, whole)


def device_of(kind: Stream, cfg: Config) -> str:
    """Where buckets travel. Memory of a GPU is shared on that GPU alone, and NCCL refuses a group
    with two processes on one."""
    if kind == "adapter" or not (cfg.rollout.gpus_per_worker and cfg.train.gpus_per_worker):
        return "cpu"
    is_same = cfg.placement.mode == "colocated"
    return "cuda" if (kind == "ipc") == is_same else "cpu"


def _base_of(draft: Draft) -> str:
    """The directory of the weights that the adapters belong on."""
    base = draft.masters.base if draft.masters else draft.job.start.path
    return str(Path(base).absolute())


def _pairs(draft: Draft) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{adapted module: (A, B)}."""
    ending = f".lora_A.{ADAPTER_NAME}.weight"
    modules = [name.removesuffix(ending) for name in draft.adapters if name.endswith(ending)]
    other = f".lora_B.{ADAPTER_NAME}.weight"
    return {m: (draft.adapters[m + ending], draft.adapters[m + other]) for m in modules}


def _name_of(names: dict[str, str], name: str) -> str:
    found = names.get(name, "")
    if not found:
        raise WeightsError(
            f"the parameter {name} is no tensor of its own on disk, so its adapter cannot be sent; "
            "expected one: set push.transport to another than adapter"
        )
    return found
