"""How one fit turns micro-batches into a loss under `train.objective`, and what it notes of them.

On-policy objectives are scored as the sampler did: at the temperature of each example and without
the ids that are banned at sampling. All others are scored as the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virgo_ray.config import Config
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Plan
from virgo_ray.train import zero
from virgo_ray.train.batch import Batcher, MicroBatch
from virgo_ray.train.feed import Feed
from virgo_ray.train.loss import weighted_nll
from virgo_ray.train.objectives.choosing import Means, Objective, find_objective
from virgo_ray.train.objectives.scored import Scored
from virgo_ray.train.pack import num_target_tokens, step_examples
from virgo_ray.train.process import num_spare_threads
from virgo_ray.train.reference import (
    StartLogprobs,
    load_or_make,
    micro_batches_of,
    score_start,
)

Report = Callable[[dict[str, Any]], None]


class Learning:
    """One rank's losses of a fit on `plan`."""

    def __init__(self, cfg: Config, plan: Plan, rank: int, engine: zero.ZeroEngine) -> None:
        self._cfg = cfg.train.objective
        self._plan, self._rank, self._engine = plan, rank, engine
        self._objective: Objective | None = find_objective(self._cfg, plan.examples)
        self._start: StartLogprobs = {}
        self._sums: dict[str, Tensor] = {}
        self._banned: Tensor | None = None
        if self._objective is not None and self._cfg.is_on_policy:
            ids = sorted(Prompter(cfg.model, cfg.prompt).placeholder_ids)
            self._banned = torch.tensor(ids, device=engine.device)

    @property
    def needs_start(self) -> bool:
        """Whether log-probabilities under the start weights have to be there before step 1."""
        return self._objective is not None and self._cfg.has_reference

    def take_start(self, path: Path, is_begun: bool, batcher: Batcher, report: Report) -> None:
        """Read the log-probabilities under the start weights, or compute them with the weights in
        memory and keep them at `path`. All ranks call it together; `report` hears of progress.

        Raises:
            TrainingError: the file is damaged, or missing though the fit `is_begun`.
        """
        self._start = load_or_make(path, is_begun, lambda: self._score_start(batcher, report))

    def _score_start(self, batcher: Batcher, report: Report) -> StartLogprobs:
        plan = self._plan

        def score(batch: MicroBatch) -> Tensor:
            report({"phase": "score start weights"})
            return self.score(batch)

        wanted = (
            [plan.examples[i] for i in places] for _, places in micro_batches_of(plan, self._rank)
        )
        self._engine.train(False)
        try:
            with Feed(batcher, wanted, num_spare_threads()) as feed:
                return score_start(plan, self._rank, feed.take, score)
        finally:
            self._engine.train(True)

    def score(self, batch: MicroBatch) -> Tensor:
        """(T,) log-probabilities of the targets."""
        if self._banned is None:
            return self._engine(batch.inputs, batch.places, batch.targets)
        return self._engine(
            batch.inputs, batch.places, batch.targets, batch.temperatures, self._banned
        )

    def count(self, step: int) -> int:
        """What the loss of a step is divided by, all ranks together."""
        if self._objective is None:
            return num_target_tokens(self._plan, step)
        return self._objective.count(step_examples(self._plan, step))

    def loss(self, batch: MicroBatch, places: Sequence[int], count: int) -> Tensor:
        """This micro-batch's share of the step's loss; `places` are those of its examples."""
        logprobs = self.score(batch)
        if self._objective is None:
            return weighted_nll(logprobs, batch.weights, count)
        scored = Scored(
            new=logprobs,
            weights=batch.weights,
            has_group=batch.has_group,
            sampled=batch.sampled,
            start=self._start_of(batch, places),
            lengths=batch.lengths,
            roles=batch.roles,
        )
        for name, value in self._objective.measure(scored).items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        return self._objective.loss(scored) / count

    def _start_of(self, batch: MicroBatch, places: Sequence[int]) -> Tensor:
        parts = [
            self._start.get(place, torch.zeros(num))
            for place, num in zip(places, batch.lengths, strict=True)
        ]
        return torch.cat(parts).to(batch.weights.device)

    def take_sums(self) -> list[float]:
        """What was noted of this rank's micro-batches since the last call."""
        names = () if self._objective is None else self._objective.names
        taken = [float(self._sums[name]) for name in names]
        self._sums = {}
        return taken

    def summarise(self, totals: Sequence[float]) -> Means:
        """What a step came to; `totals` are the sums of `take_sums` over all ranks."""
        if self._objective is None:
            return {}
        return self._objective.summarise(dict(zip(self._objective.names, totals, strict=True)))
