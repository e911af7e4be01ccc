#!/usr/bin/env python
"""Which faults of a push are found, and by what.

    python scripts/probe_faults.py [--model tiny|0.1b] [--dtype float32|bfloat16]
        [--engine vllm|torch] [--steps 20] [--pushes 100]

Trains a model for two rounds of a few optimizer steps, serves it with a real vLLM engine on CPU (or
with a stand-in: transformers with another attention and other batches, without a cache) and pushes
the second round's weights to it: once as it should be, then with one fault after the other
(`FAULTS`). Prints a table of what the checksums and the parity probe say. With `--pushes` follows
that many right pushes, one optimizer step after the other, each of which must pass. The tables of
docs/probe.md are its output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from push_faults import FAULT_VARIABLE, FAULTS, fault_of_now, spoil, with_flipped_bit
from safetensors.torch import save_file

from virgo_ray.config import Config, load_config
from virgo_ray.data.ingest import read_data
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Weights
from virgo_ray.rollout import arguments
from virgo_ray.rollout.engine import RolloutEngine
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.model import load_model
from virgo_ray.train.probing import as_example, choose_start
from virgo_ray.weights.manifest import read_manifest
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.publish import publish
from virgo_ray.weights.transport import DiskTransport
from virgo_ray.weights.verdict import (
    Deviation,
    Evidence,
    Noise,
    faults,
    measure,
    tolerance_of,
    worst_noise,
)

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
BATCH = 8  # examples of an optimizer step
LARGE = {
    "hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 14,
    "layer_types": ["full_attention"] * 14, "num_attention_heads": 12, "num_key_value_heads": 12,
    "rope_parameters": {
        "mrope_section": [8, 12, 12], "rope_theta": 10000.0, "rope_type": "default"
    },
}  # fmt: skip


class TorchEngine:
    """Stands in for `RolloutEngine`: scores items four at a time, with another attention."""

    def __init__(self, cfg: Config, directory: Path) -> None:
        self._cfg, self._directory = cfg, directory / "served"
        self.read: dict[str, str] = {}
        base = resolve_model(cfg.model.path)
        self._batcher = Batcher(base, cfg.model, torch.device("cpu"))
        self._engine = self  # as the real one has vLLM's inside
        self._take(base)

    async def start(self) -> None:
        pass

    async def load(self, weights: Weights, offer: Any = None) -> None:
        transport, head = DiskTransport(), self._model.model.lm_head.weight.detach().clone()
        tensors = dict(spoil(transport.receive(weights.path)))
        shutil.rmtree(self._directory, ignore_errors=True)
        shutil.copytree(weights.path, self._directory)
        save_file(tensors, self._directory / "model.safetensors", metadata={"format": "pt"})
        self._take(str(self._directory))
        if fault_of_now()["name"] == "stale head":
            self._model.model.lm_head.weight = torch.nn.Parameter(head)
        self.read = transport.read

    @torch.no_grad()
    async def score(self, items: Sequence[ProbeItem]) -> list[list[float]]:
        scored: list[list[float]] = []
        for first in range(0, len(items), 4):
            own = items[first : first + 4]
            batch = self._batcher.collate([as_example(item) for item in own])
            row = self._model(batch.inputs, batch.places, batch.targets).tolist()
            for item in own:
                num = len(item.target_ids)
                scored, row = [*scored, row[:num]], row[num:]
        return scored

    async def score_cached(self, items: Sequence[ProbeItem]) -> list[float]:
        return [row[0] for row in await self.score(items)]

    def close(self) -> None:
        pass

    def _take(self, path: str) -> None:
        model: Any = load_model(path, self._cfg.model).eval()
        model.set_attn_implementation("eager")
        self._model: Any = TargetLogprobs(model, self._cfg.model.head_dtype)


class Lab:
    """A model in training, and an engine that serves it."""

    def __init__(self, cfg: Config, directory: Path, has_vllm: bool = True) -> None:
        self.cfg, self._directory = cfg, directory
        self.noise: dict[str, Noise] = {}
        base = resolve_model(cfg.model.path)
        prompter = Prompter(cfg.model, cfg.prompt)
        data = read_data(cfg, prompter)
        problems, thoughts = data.heldout, data.seed_thoughts
        self.items = choose_start(
            round(cfg.push.probe_tokens / 0.7), cfg.model.max_length, prompter, problems, thoughts,
            directory,
        )  # fmt: skip
        self._examples = [prompter.example("t", t.problem, t.thought) for t in thoughts] + [
            prompter.example("p", p, t.thought) for p, t in zip(problems, thoughts, strict=True)
        ]
        self._batcher = Batcher(base, cfg.model, torch.device("cpu"))
        exact = cfg.model.model_copy(update={"dtype": "float32"})
        self._trained = TargetLogprobs(load_model(base, exact))
        rate = 5e-4 if cfg.model.path == "tiny" else 1e-4
        self._optimizer = torch.optim.AdamW(self._trained.parameters(), lr=rate, weight_decay=0.0)
        published = load_model(base, cfg.model).eval()
        self._published = TargetLogprobs(published, cfg.model.head_dtype)
        self._num_steps = 0
        self.seconds: dict[str, list[float]] = {}
        self._fault_file = directory / "fault.json"
        os.environ[FAULT_VARIABLE] = str(self._fault_file)
        self.fault("none")
        self._loop = asyncio.new_event_loop()
        self.faults = [f for f in FAULTS if has_vllm or f != "stale prefix cache"]
        real = partial(RolloutEngine, cfg.model, cfg.prompt, cfg.rollout)
        self._engine: Any = real() if has_vllm else TorchEngine(cfg, directory)
        self._run(self._engine.start())

    # -- the trainer's side ----------------------------------------------------------------------

    def train(self, num_steps: int) -> None:
        """Optimizer steps in float32 on thoughts about texts and pictures."""
        for _ in range(num_steps):
            first = self._num_steps * BATCH * 5
            chosen = [self._examples[(first + 5 * i) % len(self._examples)] for i in range(BATCH)]
            batch = self._batcher.collate([self._short(e) for e in chosen])
            loss = -self._trained(batch.inputs, batch.places, batch.targets).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._trained.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._num_steps += 1

    def publish(self, version: int) -> Weights:
        """The weights of now, in the config's dtype."""
        model: Any = self._published.model
        with torch.no_grad():
            ours = zip(model.parameters(), self._trained.model.parameters(), strict=True)
            for published, trained in ours:
                published.copy_(trained)
        return publish(self._directory / "weights", version, model.save_pretrained)

    @torch.no_grad()
    def probe(self) -> Probe:
        """The values of what was published last."""
        batches = [self._batcher.collate([as_example(item)]) for item in self.items]
        rows = [self._published(b.inputs, b.places, b.targets).tolist() for b in batches]
        return Probe(self.items, tuple(map(tuple, rows)))

    def _short(self, example: Example) -> Example:
        return Example("", example.prompt_ids, example.target_ids[:96], example.images)

    # -- the engine's side -----------------------------------------------------------------------

    def fault(self, name: str, before: Weights | None = None) -> None:
        layers = self._published_layers()
        content = {"name": name, "layer": layers // 2, "before": before and before.path}
        self._fault_file.write_text(json.dumps(content))

    def _published_layers(self) -> int:
        model: Any = self._published.model
        return int(model.config.get_text_config().num_hidden_layers)

    def evidence(self, weights: Weights, probe: Probe, keeps_cache: bool = False) -> Evidence:
        """What a worker does at a push (`actors/rollouts/worker.py`)."""
        vllm: Any = self._engine._engine
        if keeps_cache:
            vllm.reset_prefix_cache = _forget
        try:
            cached = probe.cached_items()
            self.clock("cache", self._engine.score_cached(cached))
            self.clock("load", self._engine.load(weights))
            through = self.clock("cache", self._engine.score_cached(cached))
            scored = self.clock("score", self._engine.score(probe.items))
        finally:
            vars(vllm).pop("reset_prefix_cache", None)
        return Evidence(scored, dict(self._engine.read), through)

    def evidence_of_base(self, probe: Probe) -> Evidence:
        cached = self._run(self._engine.score_cached(probe.cached_items()))
        return Evidence(self._run(self._engine.score(probe.items)), {}, cached)

    def clock(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        began = time.monotonic()
        result = self._run(work)
        self.seconds.setdefault(what, []).append(time.monotonic() - began)
        return result

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self._engine.close()
        self._run(asyncio.sleep(0.1))
        self._loop.close()


async def _forget() -> bool:
    return True


def has_wrong_bytes(evidence: Evidence, weights: Weights) -> bool:
    files = read_manifest(Path(weights.path)).files
    return any(evidence.read.get(f) != files[f].sha256 for f in files if f.endswith(".safetensors"))


def push_with(lab: Lab, fault: str, before: Weights, new: Weights, probe: Probe) -> Evidence:
    """From the weights before to the new ones, with one fault."""
    lab.fault("none")
    lab.evidence(before, probe)
    lab.fault(fault, before)
    if fault == "stale whole":
        return lab.evidence(before, probe)
    if fault == "one bit of a file":
        copy = with_flipped_bit(new, Path(new.path).parent / "flipped")
        return lab.evidence(copy, probe)
    return lab.evidence(new, probe, keeps_cache=fault == "stale prefix cache")


@dataclass(frozen=True)
class Result:
    """Of one push: how far the engine was from the trainer, and what found that."""

    push: str
    found: Sequence[Deviation]
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A row of the table: RMS / 99th percentile in nats; share of the way ± what is allowed."""
        cells = [_cell(deviation) for deviation in self.found]
        return f"| {self.push} | {' | '.join(cells)} | {' and '.join(self.by) or 'nothing'} |"


def _cell(found: Deviation) -> str:
    change = found.change
    share = "" if change is None else f"; {change.share:.3f} ±{change.allowed:.2f}"
    return f"{found.rms:.2g} / {found.p99:.2g}{share}"


def judge(
    push: str, probe: Probe, evidence: Evidence, noise: Mapping[str, Noise], lab: Lab, new: Weights
) -> Result:
    found = measure(probe, evidence, noise)
    by = ["checksum"] if has_wrong_bytes(evidence, new) else []
    by += ["probe"] if faults(found, tolerance_of(lab.cfg), noise) else []
    return Result(push, found, tuple(by))


def results(lab: Lab, steps: int) -> Iterator[Result]:
    """Of version 0, whose noise `lab` keeps, and of every fault."""
    probe = lab.probe()
    found = measure(probe, lab.evidence_of_base(probe), {})
    lab.noise = worst_noise([found])
    said = faults(found, tolerance_of(lab.cfg), {})
    yield Result("version 0", found, ("probe",) if said else ())
    lab.train(steps)
    before, values_before = lab.publish(1), lab.probe()
    lab.train(steps)
    new = lab.publish(2)
    probe = lab.probe().after(values_before)
    for fault in lab.faults:
        evidence = push_with(lab, fault, before, new, probe)
        yield judge(fault, probe, evidence, lab.noise, lab, new)


def right_pushes(lab: Lab, num: int) -> Iterator[Result]:
    """Push after every optimizer step; one that is found wrong is a false alarm."""
    before = lab.probe()
    lab.fault("none")
    for number in range(num):
        lab.train(1)
        weights = lab.publish(number + 3)
        probe = lab.probe().after(before)
        evidence = lab.evidence(weights, probe)
        yield judge(f"step {number + 1}", probe, evidence, lab.noise, lab, weights)
        shutil.rmtree(weights.path)
        before = probe


def build_large(directory: Path) -> Path:
    """A random model of 0.1 billion parameters with the bundled one's tokenizer and vision."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shutil.copytree(resolve_model("tiny"), directory)
    fields = json.loads((directory / "config.json").read_text())
    fields["text_config"] |= LARGE
    fields["vision_config"]["out_hidden_size"] = LARGE["hidden_size"]
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**fields))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")
    model.save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("tiny", "0.1b"), default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--engine", choices=("vllm", "torch"), default="vllm")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a round")
    parser.add_argument("--pushes", type=int, default=0, help="right pushes after the faults")
    args = parser.parse_args()
    arguments.EXTENSION = "push_faults.FaultyExtension"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = "tiny" if args.model == "tiny" else str(build_large(directory / "model"))
        cfg = configure(directory, f"model.path={path}", f"model.dtype={args.dtype}")
        lab = Lab(cfg, directory, has_vllm=args.engine == "vllm")
        num = sum(len(i.target_ids) for i in lab.items)
        heading = f"{args.model}, {args.engine}, {args.dtype}, {args.steps} steps a round"
        print(f"{heading}, {num} target tokens\n")
        print("| push | text | image | cached | found by |\n|---|---|---|---|---|")
        for result in results(lab, args.steps):
            print(result, flush=True)
        print()
        for what, seconds in lab.seconds.items():
            median = sorted(seconds)[len(seconds) // 2]
            print(f"{what}: {median:.3f} s at the median of {len(seconds)}")
        pushes = list(right_pushes(lab, args.pushes))
        for result in pushes[:: max(1, len(pushes) // 5)]:
            print(result)
        print(f"{sum(bool(r.by) for r in pushes)} of {args.pushes} right pushes refused")
        lab.close()


def configure(directory: Path, *overrides: str) -> Config:
    """The tiny config, with few data and one engine for all."""
    common = (
        f"run_dir={directory}/run", "rollout.kv_cache_gib=0.5", "rollout.max_in_flight=32",
        "data.train.num=16", "data.heldout.num=64", "data.seed_thoughts.num=64",
    )  # fmt: skip
    return load_config(str(ROOT / "configs/tiny.yaml"), [*common, *overrides])


if __name__ == "__main__":
    main()
