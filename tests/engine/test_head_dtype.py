"""`model.head_dtype`: logits in float32 over bfloat16 weights, in trainer and engine, never in one.

One real engine on the bundled tiny model, whose output layer is tied; its logits are switched.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import small_model
import torch

from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig, SamplingConfig
from virgo_ray.errors import RolloutError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Request, Weights
from virgo_ray.rollout import arguments
from virgo_ray.rollout.engine import RolloutEngine
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.model import load_model
from virgo_ray.train.probing import as_example
from virgo_ray.weights.probe import ProbeItem

T = TypeVar("T")
MODEL = ModelConfig(path="tiny", dtype="bfloat16", head_dtype="float32", max_length=384)
ROLLOUT = RolloutConfig(kv_cache_gib=0.1, max_in_flight=32, enforce_eager=True)
NUM_SAMPLES = 8  # of a text and of a picture
Rows = Sequence[Sequence[float]]


class Lab:
    """An engine, what it sampled, and the loop it lives in."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = RolloutEngine(MODEL, PromptConfig(), ROLLOUT)
        self.run(self.engine.start())
        picture = small_model.draw_image(directory / "picture.png", "3", (96, 64))
        self.items = [self._item(seed, picture) for seed in range(2 * NUM_SAMPLES)]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def scored_in(self, dtype: str) -> Rows:
        """By the engine, with its logits in that number format."""
        self.run(self.engine._engine.collective_rpc("compute_logits_in", args=(dtype,)))
        return self.run(self.engine.score(self.items))

    def trained(self, head_dtype: str | None) -> Rows:
        """By the trainer's module."""
        model = load_model(resolve_model("tiny"), MODEL).eval()
        module = TargetLogprobs(model, head_dtype)
        batcher = Batcher(resolve_model("tiny"), MODEL, torch.device("cpu"))
        rows = []
        for item in self.items:
            batch = batcher.collate([as_example(item)])
            with torch.no_grad():
                rows.append(module(batch.inputs, batch.places, batch.targets).tolist())
        return rows

    def _item(self, seed: int, picture: str) -> ProbeItem:
        images = (picture,) if seed % 2 else ()
        problem = Problem("p", f"What is {seed} + 3?", "3", images)
        work = self.engine.generate(Request(problem, 0, seed), SamplingConfig(max_tokens=64))
        prompt = Prompter(MODEL, PromptConfig()).prompt_ids(problem)
        return ProbeItem(tuple(prompt), self.run(work).token_ids, next(iter(images), None))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "EXTENSION", "switching_engine.Switching")
        lab = Lab(tmp_path_factory.mktemp("head"))
    yield lab
    lab.engine.close()
    lab.run(asyncio.sleep(0.1))  # vLLM's tasks end in their own loop
    lab.loop.close()


def distance(a: Rows, b: Rows) -> float:
    """RMS over all tokens, in nats."""
    sizes = [
        (x - y) ** 2
        for r, s in zip(a, b, strict=True)
        for x, y in zip(r, s, strict=True)
    ]  # fmt: skip
    assert len(sizes) > 200
    return math.sqrt(sum(sizes) / len(sizes))


def test_float32_logits_on_both_sides_bring_trainer_and_engine_nearer(lab):
    both_rounded = distance(lab.trained(None), lab.scored_in("bfloat16"))
    both_exact = distance(lab.trained("float32"), lab.scored_in("float32"))
    assert 0.0 < both_exact < 0.9 * both_rounded


def test_an_engine_whose_logits_are_rounded_alone_is_refused(lab):
    lab.scored_in("float32")
    lab.run(lab.engine._require_head_dtype())
    rounded = lab.scored_in("bfloat16")
    assert distance(rounded, lab.scored_in("float32")) > 1e-3  # they are other numbers
    lab.scored_in("bfloat16")
    with pytest.raises(RolloutError, match=r"logits in .*bfloat16.*expected torch.float32"):
        lab.run(lab.engine._require_head_dtype())


def test_new_weights_are_served_with_float32_logits_too(lab):
    before = lab.scored_in("float32")
    lab.run(lab.engine.load(Weights(1, str(resolve_model("tiny")))))
    assert distance(lab.scored_in("float32"), before) < 1e-5
    lab.run(lab.engine._require_head_dtype())
