"""Asks a trainer's model what engines are asked after a push: the probe's items and answers.

All ranks call the same methods together, and get the same from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Plan
from virgo_ray.train import zero
from virgo_ray.train.fitting import Loaded, Report
from virgo_ray.train.probing import as_example, choose_from_plan, choose_rollouts
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.probe_items import add_rollouts


class Prober:
    """Of one rank; `root` holds the published versions."""

    def __init__(self, cfg: Config, root: Path, prompter: Prompter) -> None:
        self._cfg = cfg
        self._rank = dist.get_rank()
        self._weights_root = root
        self._prompter = prompter

    @torch.no_grad()
    def ask(self, loaded: Loaded, items: Sequence[ProbeItem], report: Report) -> Probe:
        """Log-probabilities of the model in memory, one item at a time; each is reported."""
        loaded.module.eval()
        rows: list[tuple[float, ...]] = []
        for item in items:
            batch = loaded.batcher.collate([as_example(item)])
            logprobs = loaded.engine(batch.inputs, batch.places, batch.targets)
            rows.append(tuple(logprobs.float().tolist()))
            report({"phase": "probe", "num_items": len(rows)})
        return Probe(tuple(items), tuple(rows))

    def items(self, plan: Plan) -> tuple[ProbeItem, ...]:
        """What every version of this run is asked, the same on all ranks."""
        lengths = self._cfg.push.probe_tokens, self._cfg.model.max_length
        items: tuple[ProbeItem, ...] = ()
        if self._rank == 0:
            kept = add_rollouts(
                self._weights_root, lambda: choose_rollouts(*lengths, plan.examples)
            )
            directory = Path(self._cfg.run_dir).resolve() / "probe"
            items = kept or choose_from_plan(*lengths, self._prompter, plan.examples, directory)
        return zero.broadcast_from_first(items)

    def known(self, path: Path) -> Probe:
        """The first rank's probe at `path`; one without items where there is none."""
        probe = Probe((), ())
        if self._rank == 0:
            with contextlib.suppress(WeightsError):
                probe = Probe.load(path)
        return zero.broadcast_from_first(probe)
