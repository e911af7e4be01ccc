"""Loads models into a rank of the trainer, and keeps one where the next fit goes on with it.

Guarantees: a model that was loaded is freed on leaving, unless it stays for the next fit; tensors
that only `write_now` would need go before another model is loaded beside them. All ranks call the
same methods together. Knows no plans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig

from virgo_ray.config import Config, ModelConfig
from virgo_ray.errors import DroppedWeightsError, TrainingError
from virgo_ray.model.dropped import say_dropped
from virgo_ray.records import Weights
from virgo_ray.train import zero
from virgo_ray.train.adapters import Masters, origin_of, put_back
from virgo_ray.train.batch import Batcher
from virgo_ray.train.carrying import find_left
from virgo_ray.train.fitting import Loaded, Report
from virgo_ray.train.job import Carried, Job
from virgo_ray.train.liger import use_kernels
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.memory import memory_errors
from virgo_ray.train.model import (
    adapters_of,
    format_table,
    load_model,
    prepare,
    trainable_table,
    unfolded_after,
)
from virgo_ray.train.progress import beating
from virgo_ray.train.publishing import Publisher
from virgo_ray.train.resident import Held, Resident
from virgo_ray.train.rows import packed_rows


class Loader:
    """Of one rank; `publisher` has what is in memory only."""

    def __init__(self, cfg: Config, publisher: Publisher) -> None:
        self._cfg = cfg
        self._rank = dist.get_rank()
        self._publisher = publisher
        self._resident = Resident()

    def release(self, report: Report) -> None:
        """Leave the device to others until the next call."""
        self._resident.release(lambda text: report({"notice": text}))

    def close(self) -> None:
        """Free what stays in memory between fits."""
        self._resident.close()

    @contextlib.contextmanager
    def loaded(
        self,
        weights: Weights,
        is_training: bool,
        report: Report = lambda event: None,
        masters: Masters | None = None,
        carried: Carried | None = None,
    ) -> Iterator[Loaded]:
        """The model of `weights` in a DeepSpeed engine; freed on leaving, unless it is kept for the
        next fit. With `masters` its adapters, and what they are on, are those of an earlier fit,
        and with `carried` its optimizer is.

        Raises:
            TrainingError: no memory, or the optimizer is gone or damaged.
        """
        loaded = self._taken(weights, report, masters, carried) if is_training else None
        if loaded is None:
            self._resident.close()
            self._require_tensors(weights, report)
        if is_training:
            self._publisher.forget()  # before a model is loaded beside it
        if loaded is None:
            loaded = self._load(weights, is_training, report, masters)
            if carried is not None:
                with _closed_on_error(loaded.engine), beating("load", report):
                    loaded.engine.load(self._find_left(carried))
        try:
            yield loaded
        finally:
            if not self._resident.holds(loaded):
                loaded.engine.close()

    def _load(
        self, weights: Weights, is_training: bool, report: Report, masters: Masters | None
    ) -> Loaded:
        train, model_cfg = self._cfg.train, self._cfg.model
        torch.manual_seed(self._cfg.seed)  # adapters start alike on all ranks
        dtype: torch.dtype = getattr(torch, model_cfg.dtype)
        hidden_size = _hidden_size(weights.path, model_cfg)
        config = zero.zero_config(train, dtype, hidden_size, is_training)
        where = f"while {weights.path} is loaded on rank {self._rank}"
        with memory_errors(where, train), beating("load", report):
            with zero.sharded_loading(config):
                model = load_model(weights.path, model_cfg)
                base = load_model(masters.base, model_cfg) if masters else None
            if train.liger:
                use_kernels(model)
            if is_training:
                report({"table": format_table(prepare(model, train))})
            adapters = masters.tensors() if masters else {}
            if base is not None:
                put_back(model, base, adapters)
                del base
            layout = packed_rows(model) if train.packing else None
            module = TargetLogprobs(model, model_cfg.head_dtype)
            engine = zero.ZeroEngine(module, config, train if is_training else None)
        with _closed_on_error(engine):
            if masters:
                with memory_errors(where, train), beating("load", report):
                    engine.set_masters(adapters_of(model), adapters)
            batcher = Batcher(weights.path, model_cfg, engine.device, layout)
            return Loaded(module, engine, batcher)

    def _find_left(self, carried: Carried) -> Path:
        found: Path | TrainingError | None = None
        if self._rank == 0:
            try:
                found = find_left(Path(self._cfg.run_dir), carried)
            except TrainingError as error:
                found = error
        found = zero.broadcast_from_first(found)
        if isinstance(found, TrainingError):
            raise found  # on every rank: none waits for one that stopped
        assert isinstance(found, Path)
        return found

    def _require_tensors(self, weights: Weights, report: Report) -> None:
        """Those in memory are written where they alone can be loaded."""
        said = ""
        if self._rank == 0:
            with beating("write tensors", report):
                self._publisher.write_now(weights.version)
            said = say_dropped(Path(weights.path))
        if said := zero.broadcast_from_first(said):
            raise DroppedWeightsError(said)  # on every rank: none waits for one that stopped

    def _taken(
        self, start: Weights, report: Report, masters: Masters | None, carried: Carried | None
    ) -> Loaded | None:
        """What the fit before left in memory, begun anew, if it is exactly `start`."""
        torch.manual_seed(self._cfg.seed)
        where = f"while {start.path} is gone on with on rank {self._rank}"
        with memory_errors(where, self._cfg.train), beating("load", report):
            origin = masters.origin if masters else None
            loaded = self._resident.take(start, origin, carried is not None)
        if loaded is not None:
            report({"table": format_table(trainable_table(loaded.module.model))})
        return loaded

    def keep(self, loaded: Loaded, job: Job, published: Weights, masters: Masters | None) -> None:
        """Hold what was fitted for the next fit, where the config says so."""
        train = self._cfg.train
        if not train.resident:
            return
        origin = masters.origin if masters else None
        if origin is None and train.lora is not None:
            origin = zero.broadcast_from_first(
                origin_of(job.start, train.lora) if self._rank == 0 else None
            )
        self._resident.keep(Held(loaded, published, job.recipe, origin))

    @contextlib.contextmanager
    def kept_unfolded(self, loaded: Loaded) -> Iterator[None]:
        """Around what folds the adapters: a model that stays goes on with them."""
        with contextlib.ExitStack() as stack:
            if self._cfg.train.resident:
                stack.enter_context(unfolded_after(loaded.module.model))
            yield


@contextlib.contextmanager
def _closed_on_error(engine: zero.ZeroEngine) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close)
        yield
        stack.pop_all()


def _hidden_size(path: str, cfg: ModelConfig) -> int:
    config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
    return int(config.get_text_config().hidden_size)
