"""What the sampler says of its own tokens is what a trainer computes of them: real vLLM against
plain transformers, on a model that wants what is banned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_rollout_engine import MODEL, PROMPT, Driver, _favourite_direction, ask, draw, perturbed
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from virgo_ray.errors import RolloutError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import LogProbs, Rollout
from virgo_ray.rollout.outputs import sampled_logprobs
from virgo_ray.weights.probe import ProbeItem

TEMPERATURE = 0.8
LIMIT = 1e-4  # nats, float32
BANNED = sorted(Prompter(MODEL, PROMPT).placeholder_ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sampled")


@pytest.fixture(scope="module")
def picture(files: Path) -> str:
    return draw(files / "three.png", 3)


@pytest.fixture(scope="module")
def eager(files: Path) -> Path:
    """Weights that would rather answer with picture tokens."""
    directory = perturbed(files / "eager", seed=2)
    tensors = load_file(directory / "model.safetensors")
    embedding = next(n for n in tensors if n.endswith("embed_tokens.weight"))
    tensors[embedding][BANNED] = 20 * _favourite_direction(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def driver(eager: Path) -> Iterator[Driver]:
    driver = Driver(MODEL, needs_logprobs=True)
    yield driver
    driver.close()


@pytest.fixture
def served(driver: Driver, eager: Path) -> Iterator[Driver]:
    driver.load(1, eager)
    yield driver


class PlainModel:
    """Logits of the sampled tokens, from a forward pass of transformers."""

    def __init__(self, directory: Path) -> None:
        model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
        self._model = model.eval()
        self._processor = AutoImageProcessor.from_pretrained(directory)
        self._prompter = Prompter(MODEL, PROMPT)

    @torch.no_grad()
    def logits(self, rollout: Rollout) -> torch.Tensor:  # (response, vocabulary)
        from PIL import Image

        image_id = self._model.config.image_token_id
        inputs: dict[str, Any] = {}
        num_places = 1
        for path in rollout.problem.images:
            picture = Image.open(path).convert("RGB")
            inputs = dict(self._processor(images=[picture], return_tensors="pt"))
            num_places = int(inputs["image_grid_thw"].prod()) // self._processor.merge_size**2
        prompt = [
            x
            for i in self._prompter.prompt_ids(rollout.problem)
            for x in [i] * (num_places if i == image_id else 1)
        ]
        ids = torch.tensor([[*prompt, *rollout.token_ids]])
        types = (ids == image_id).int()
        logits = self._model(input_ids=ids, mm_token_type_ids=types, **inputs).logits[0]
        return logits[len(prompt) - 1 : -1].float()


def of_sampled(logits: torch.Tensor, rollout: Rollout) -> torch.Tensor:
    return logits.log_softmax(-1)[range(len(rollout.token_ids)), list(rollout.token_ids)]


def without_banned(logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, torch.tensor(BANNED), float("-inf"))


def largest(differences: list[torch.Tensor]) -> float:
    return max(float(d.abs().max()) for d in differences)


def test_processed_log_probabilities_are_those_of_a_trainer_with_temperature_and_bans(
    served: Driver, picture: str, eager: Path
) -> None:
    requests = [ask(image, seed) for image in (None, picture) for seed in range(6)]
    rollouts = served.generate(*requests, temperature=TEMPERATURE, max_tokens=60)
    plain = PlainModel(eager)
    logits = [plain.logits(r) for r in rollouts]
    sampled = [torch.tensor(list(r.logprobs)) for r in rollouts]
    assert sum(map(len, sampled)) > 200 and largest(sampled) > 1
    right = [
        s - of_sampled(without_banned(x) / TEMPERATURE, r)
        for s, x, r in zip(sampled, logits, rollouts, strict=True)
    ]
    assert largest(right) < LIMIT
    for wrong in (lambda x: x / TEMPERATURE, without_banned):  # no bans; no temperature
        others = [
            s - of_sampled(wrong(x), r) for s, x, r in zip(sampled, logits, rollouts, strict=True)
        ]
        assert largest(others) > 1000 * LIMIT


def test_probes_stay_raw_where_sampled_log_probabilities_are_processed(
    served: Driver, eager: Path
) -> None:
    """Of banned tokens too: neither a ban nor a temperature touches them."""
    problem = ask().problem
    target = (BANNED[0], 7, BANNED[1])
    item = ProbeItem(Prompter(MODEL, PROMPT).prompt_ids(problem), target)
    rollout = Rollout(problem, 0, "", target, "stop", 1)
    expected = of_sampled(PlainModel(eager).logits(rollout), rollout)
    (found,) = served.score([item])
    assert largest([torch.tensor(found) - expected]) < 10 * LIMIT
    (cached,) = served.run(served.engine.score_cached([item]))
    assert abs(cached - float(expected[0])) < 10 * LIMIT and cached != 0


def test_greedy_rollouts_carry_no_log_probabilities(served: Driver) -> None:
    greedy, sampled = (served.generate(ask(), temperature=t)[0] for t in (0.0, 1.0))
    assert greedy.logprobs == () and len(greedy.token_ids) > 1
    assert len(sampled.logprobs) == len(sampled.token_ids)


def test_log_probabilities_that_are_not_finite_are_refused(driver: Driver, files: Path) -> None:
    directory = perturbed(files / "broken", seed=3)
    tensors = load_file(directory / "model.safetensors")
    name = next(n for n in tensors if n.endswith("model.norm.weight"))
    tensors[name].fill_(float("nan"))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    driver.load(2, directory)
    with pytest.raises(RolloutError, match=r"has the log-probability nan, expected a finite"):
        driver.generate(ask(), temperature=1.0, max_tokens=3)
    driver.load(0, resolve_model("tiny"))


@pytest.mark.parametrize("values", [None, [-1.0], [-1.0, float("-inf")]])
def test_what_vllm_returns_is_checked(values: list[float] | None) -> None:
    ids = [4, 5]
    flat = None
    if values is not None:
        flat = SimpleNamespace(logprobs=values, token_ids=ids[: len(values)])
    completion: Any = SimpleNamespace(token_ids=ids, logprobs=flat)
    with pytest.raises(RolloutError, match="'p'"):
        sampled_logprobs(completion, ask().problem)
    completion.logprobs = SimpleNamespace(logprobs=[-1.0, -0.5], token_ids=ids)
    assert sampled_logprobs(completion, ask().problem) == LogProbs((-1, -0.5))
