"""Code that runs inside vLLM's worker processes: in-place reload, and death with the owner.

Guarantees that after `reload_from` or `reload_through` every parameter of the engine was filled
completely from the new tensors, or that it raises; and that an engine whose reload broke off, at
whatever tensor, takes the next one as if nothing had happened. A worker process also watches the
process that owns the engine and takes the engine down with it, so that a killed owner leaves no
orphan behind. Knows nothing of requests, caches or probes.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    finalize_layerwise_reload,
    get_layerwise_info,
)

from virgo_ray.errors import WeightsError
from virgo_ray.node.orphans import die_with_parent
from virgo_ray.rollout.loader import passed_over, without_place
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.streams import Receiver, receiver_of
from virgo_ray.weights.transport import DiskTransport

OWNER_VARIABLE = "VIRGO_RAY_ENGINE_OWNER"  # process id of whoever started the engine


class WorkerExtension:
    """Mixed into vLLM's worker class; called through `collective_rpc`."""

    model_runner: Any
    rank: int  # among the processes of this engine

    def reload_from(self, path: str) -> dict[str, str]:
        """Replace all weights by those in `path`, in place; returns the checksums of what was read.

        Raises:
            WeightsError: a parameter of the engine was not filled, or not completely.
        """
        return self._reload(DiskTransport(), path, self._without_place(path))

    def reload_through(self, offer: dict[str, Any], path: str) -> dict[str, str]:
        """The same with what a trainer holds; `path` is where it will be published.

        Returns:
            The digest of what was received, under "stream".
        """
        device = next(self.model_runner.get_model().parameters()).device
        receiver = receiver_of(Offer(**offer), self.rank, str(device))
        why = "it could not load what was sent; its own process says why"
        try:
            read = self._reload(receiver, path, passed_over(self.model_runner.load_config))
            why = ""
            return read
        finally:
            receiver.close(why)

    def _reload(self, transport: Receiver, path: str, left_out: frozenset[str]) -> dict[str, str]:
        model = self.model_runner.get_model()
        with _check_coverage(model, path), self._healing():
            known = ((n, tensor) for n, tensor in transport.receive(path) if n not in left_out)
            self.model_runner.reload_weights(weights_iterator=known)
        self.retie_lm_head()
        return transport.read

    @contextmanager
    def _healing(self) -> Iterator[None]:
        """End a reload that broke off, so that the next one begins anew."""
        is_whole = False
        try:
            yield
            is_whole = True
        finally:
            if not is_whole:
                _break_off(self.model_runner.get_model(), self.model_runner.model_config)

    def head_dtypes(self) -> list[str]:
        """Number formats in which this process computes logits: one, unless the model has several
        output layers."""
        model = self.model_runner.get_model()
        layers = (m for m in model.modules() if isinstance(m, LogitsProcessor))
        return sorted({str(layer.head_dtype) for layer in layers})

    def _without_place(self, path: str) -> frozenset[str]:
        """Names in `path` that the model class does not build; vLLM has no place for them.

        What a trainer sends has the names of the base: nothing is read of a directory that is
        only just being published.
        """
        model = self.model_runner.model_config
        added = without_place(Path(path), Path(model.model), model.trust_remote_code)
        return passed_over(self.model_runner.load_config) | added

    def retie_lm_head(self) -> None:
        """Make a tied output head use the new embedding.

        A reload fills the embedding only. On CPU the head keeps a packed copy of the old one, and
        all log-probabilities are silently off by about one nat.
        """
        model = self.model_runner.get_model()
        if not _is_tied(model):
            return
        embedding = _only(model, VocabParallelEmbedding)
        head = _only(model, ParallelLMHead)
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)


def _is_tied(model: nn.Module) -> bool:
    """As the config of the whole model says; that of its text half need not have the key."""
    config: Any = model.config
    return bool(config.tie_word_embeddings)


def _only(model: nn.Module, kind: type[nn.Module]) -> Any:
    """The one module of exactly this class (an lm head is also an embedding, by inheritance)."""
    found = [m for m in model.modules() if type(m) is kind]
    if len(found) != 1:
        raise WeightsError(
            f"{type(model).__name__} has {len(found)} modules {kind.__name__}, expected 1: this "
            "model's tied embeddings cannot be updated in place"
        )
    return found[0]


@contextmanager
def _check_coverage(model: Any, path: str) -> Iterator[None]:
    """Raise on leaving if the load in between did not fill every parameter.

    The look is taken between loading and finalising, when vLLM still knows how many elements each
    layer has received (afterwards it only logs a warning); the error waits until it has finished,
    so that the engine stays able to take complete weights.
    """
    original = model.load_weights
    unfilled: list[str] = []

    def load_and_look(weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded = original(weights)
        unfilled.extend(_unfilled_layers(model))
        return loaded

    model.load_weights = load_and_look
    try:
        yield
    finally:
        del model.load_weights
    if unfilled:
        raise WeightsError(
            f"{path} does not fill {len(unfilled)} layers of {type(model).__name__}, the first "
            f"are {unfilled[:3]}; expected the tensor names and shapes of the base model"
        )


def _break_off(model: nn.Module, config: Any) -> None:
    """Give every layer that has not got all of its new tensors its old ones back.

    vLLM keeps what it was given for a layer until that is complete, and would otherwise count it
    together with the next reload's: some tensors of the next one would then be left out, silently.
    """
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            info.loaded_weights.clear()
            info.load_numel = 0
    finalize_layerwise_reload(model, config)


def _unfilled_layers(model: nn.Module) -> list[str]:
    """Names of layers that received fewer elements than their parameters have.

    Left out: a tied head (it has no tensors of its own), and rows of an embedding that only pad
    the vocabulary.
    """
    unfilled = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        num_expected = sum(p.numel() for p in layer.parameters(recurse=False))
        is_tied_head = isinstance(layer, ParallelLMHead) and _is_tied(model)
        if not info.can_load() or is_tied_head:
            continue  # filled and processed already, or filled by `retie_lm_head`
        if info.load_numel < num_expected - _num_padding(layer):
            unfilled.append(f"{name} ({info.load_numel} of {num_expected} elements)")
    return unfilled


def _num_padding(layer: nn.Module) -> int:
    if not isinstance(layer, VocabParallelEmbedding):
        return 0
    padding_rows = layer.num_embeddings_padded - layer.org_vocab_size
    return padding_rows * layer.embedding_dim


def _die_with_owner(owner: int) -> None:
    """Wait for the owner's end, then end the engine core (our parent, or ourselves) and exit."""
    try:
        handle = os.pidfd_open(owner)
        select.select([handle], [], [])  # deadline: the owner's end, whenever that is
    except ProcessLookupError:
        pass  # gone already
    if os.getppid() not in (owner, 1):
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(1)


def _quiet() -> None:
    """Of these loggers, one repeats a hint about threads thousands of times, the other warns of
    layers that have nothing to load, which `_check_coverage` knows better."""
    for name in ("vllm.v1.worker.cpu_worker", "vllm.model_executor.model_loader.reload.layerwise"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _leave_no_semaphores() -> None:
    """Keep /dev/shm clean even if this process is killed.

    vLLM has made a named semaphore that nobody opens by name any more: unlink it now instead of at
    the end. tqdm would make another one while the model loads: give it a lock of threads.
    """
    for finalizer in list(util._finalizer_registry.values()):  # type: ignore[attr-defined]
        if getattr(finalizer._callback, "__qualname__", "") == "SemLock._cleanup":
            finalizer()
    tqdm.set_lock(threading.RLock())


if os.environ.get(OWNER_VARIABLE, str(os.getpid())) != str(os.getpid()):
    _quiet()
    _leave_no_semaphores()
    die_with_parent()
    threading.Thread(
        target=_die_with_owner, args=(int(os.environ[OWNER_VARIABLE]),), daemon=True
    ).start()
