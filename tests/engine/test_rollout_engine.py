"""The rollout engine: real vLLM on the bundled tiny model, compared with plain transformers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, Qwen2_5_VLConfig
from vllm.config import ModelConfig as VllmModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY

from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig, SamplingConfig
from virgo_ray.config.passthrough import REFUSED_ENGINE_ARGS
from virgo_ray.errors import PushError, RolloutError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Request, Rollout, Weights
from virgo_ray.rollout.arguments import engine_args
from virgo_ray.rollout.engine import AsyncEngineArgs, RolloutEngine
from virgo_ray.rollout.worker_extension import _is_tied
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.settings import write_pixel_bounds
from virgo_ray.weights.verdict import compare, largest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import probe_faults

T = TypeVar("T")
MODEL = ModelConfig(path="tiny", dtype="float32", max_length=384)
PROMPT = PromptConfig()
ROLLOUT = RolloutConfig(kv_cache_gib=0.1, max_in_flight=32, enforce_eager=True)
LIMIT = 1e-3  # nats, float32


class Driver:
    """An engine and the event loop it lives in, for tests that are plain functions."""

    def __init__(self, model: ModelConfig = MODEL, **options: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = RolloutEngine(model, PROMPT, ROLLOUT, **options)
        self.run(self.engine.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def generate(self, *requests: Request, **changes: Any) -> list[Any]:
        async def all_of_them() -> list[Any]:
            sampling = SamplingConfig(**{"max_tokens": 32, **changes})
            return await asyncio.gather(*(self.engine.generate(r, sampling) for r in requests))

        return self.run(all_of_them())

    def score(self, items: list[ProbeItem]) -> list[list[float]]:
        return self.run(self.engine.score(items))

    def load(self, version: int, path: Path | str) -> None:
        self.run(self.engine.load(Weights(version, str(path))))

    @property
    def vllm(self) -> Any:
        return self.engine._engine

    async def submit_paused(self, requests: list[Request]) -> asyncio.Future[list[Any]]:
        """Have requests wait in vLLM, none of them begun, until `vllm.resume_generation()`."""
        await self.vllm.pause_generation(mode="keep", clear_cache=False)
        sampling = SamplingConfig(max_tokens=2)
        work = [self.engine.generate(request, sampling) for request in requests]
        waiting = asyncio.gather(*work, return_exceptions=True)
        while self.vllm.get_num_unfinished_requests() < len(requests):
            await asyncio.sleep(0.01)
        return waiting

    def close(self) -> None:
        self.engine.close()
        self.run(asyncio.sleep(0.1))  # vLLM's tasks end in their own loop
        self.loop.close()


@pytest.fixture(scope="module")
def driver(files: Path) -> Iterator[Driver]:
    """On a base that holds a tensor for which vLLM's model has no place."""
    base = with_extra_tensor(shutil.copytree(resolve_model("tiny"), files / "base"))
    driver = Driver(MODEL.model_copy(update={"path": str(base)}))
    yield driver
    driver.close()


@pytest.fixture(autouse=True)
def base_weights(driver: Driver) -> Iterator[None]:
    """Every test starts and ends with the base model."""
    yield
    if driver.engine.version != 0:
        driver.load(0, resolve_model("tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def picture(files: Path) -> str:
    return draw(files / "three.png", 3)


@pytest.fixture(scope="module")
def other_weights(files: Path) -> Path:
    return perturbed(files / "other", seed=1)


def draw(path: Path, num_squares: int) -> str:
    image = Image.new("RGB", (96, 64), "white")
    for i in range(num_squares):
        ImageDraw.Draw(image).rectangle((8 + 24 * i, 20, 24 + 24 * i, 40), fill=(200, 30 * i, 0))
    image.save(path)
    return str(path)


def perturbed(directory: Path, seed: int) -> Path:
    """A copy of the tiny model with every weight, tied embedding included, a little off."""
    shutil.copytree(resolve_model("tiny"), directory)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(directory / "model.safetensors")
    noisy = {
        name: t + 0.3 * t.std().nan_to_num() * torch.randn(t.shape, generator=generator)
        for name, t in tensors.items()
    }
    save_file(noisy, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def with_extra_tensor(directory: Path, name: str = "mtp.fc.weight") -> Path:
    tensors = load_file(directory / "model.safetensors")
    tensors[name] = torch.ones(8, 8)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def ask(picture: str | None = None, seed: int = 0, index: int = 0) -> Request:
    images = (picture,) if picture else ()
    return Request(Problem("p", "How many squares are there?", "3", images), index, seed)


def probe_items(driver: Driver, picture: str) -> list[ProbeItem]:
    """One item of text and one of image, both scoring what the engine itself sampled."""
    requests = (ask(), ask(picture))
    prompter = Prompter(MODEL, PROMPT)
    return [
        ProbeItem(
            prompter.prompt_ids(r.problem), rollout.token_ids, next(iter(r.problem.images), None)
        )
        for r, rollout in zip(requests, driver.generate(*requests, max_tokens=24), strict=True)
    ]


def plain_logprobs(directory: Path | str, items: list[ProbeItem]) -> Probe:
    """What transformers alone says."""
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(directory)
    return Probe(tuple(items), tuple(_score_plainly(model, processor, i) for i in items))


@torch.no_grad()
def _score_plainly(model: Any, processor: Any, item: ProbeItem) -> tuple[float, ...]:
    image_id = model.config.image_token_id
    inputs: dict[str, Any] = {}
    num_places = 1
    if item.image:
        picture = Image.open(item.image).convert("RGB")
        inputs = dict(processor(images=[picture], return_tensors="pt"))
        num_places = int(inputs["image_grid_thw"].prod()) // processor.merge_size**2
    prompt = [x for i in item.prompt_ids for x in [i] * (num_places if i == image_id else 1)]
    ids = torch.tensor([[*prompt, *item.target_ids]])
    logits = model(input_ids=ids, mm_token_type_ids=(ids == image_id).int(), **inputs).logits[0]
    rows = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    return tuple(rows[range(len(item.target_ids)), list(item.target_ids)].tolist())


def test_log_probabilities_agree_with_plain_transformers_before_and_after_a_load(
    driver: Driver, picture: str, other_weights: Path
) -> None:
    items = probe_items(driver, picture)
    base = plain_logprobs(resolve_model("tiny"), items)
    assert largest([compare(base, driver.score(items))]) < LIMIT
    other = plain_logprobs(other_weights, items)
    assert largest([compare(other, driver.score(items))]) > LIMIT
    driver.load(1, other_weights)
    assert largest([compare(other, driver.score(items))]) < LIMIT


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(
    driver: Driver, picture: str
) -> None:
    alone = driver.generate(ask(picture, seed=7))[0]
    crowd = driver.generate(*(ask(picture, seed=s) for s in range(12)))
    assert crowd[7].token_ids == alone.token_ids
    assert len({r.token_ids for r in crowd}) > 1


def test_the_engine_says_how_full_it_was_and_what_its_caches_spared(
    driver: Driver, picture: str
) -> None:
    driver.generate(ask(picture, seed=0))
    driver.engine.take_stats()
    driver.generate(*(ask(picture, seed=s) for s in range(6)), max_tokens=20)
    stats = driver.engine.take_stats()
    assert 1 < stats["running"] <= 6 and stats["waiting"] >= 0 and stats["preempted"] == 0
    assert 0 < stats["kv_cache_peak"] <= 1
    assert stats["picture_hit_share"] == 1.0, "one picture, which was processed before"
    assert stats["prefix_hit_share"] == 0.0, "the prompt is shorter than a block of the cache"
    assert driver.engine.take_stats() == {}


def test_more_seeded_prompts_than_vllm_prefills_in_one_step_do_not_end_the_engine(
    driver: Driver, picture: str
) -> None:
    question = "How many squares are there? " * 8
    problem = Problem("long", question, "3", (picture,))
    num_tokens = len(Prompter(MODEL, PROMPT).prompt_ids(problem))
    num = ROLLOUT.max_in_flight
    assert num * num_tokens > 2048  # vLLM's own limit on CPU

    async def all_in_one_step() -> list[Any]:
        waiting = await driver.submit_paused([Request(problem, i, seed=i) for i in range(num)])
        await driver.vllm.resume_generation()
        return await waiting

    assert {type(rollout) for rollout in driver.run(all_in_one_step())} == {Rollout}


def test_a_rollout_carries_what_was_sampled(driver: Driver, picture: str) -> None:
    rollout = driver.generate(ask(picture, seed=5, index=3), max_tokens=200)[0]
    prompter = Prompter(MODEL, PROMPT)
    assert rollout.key == ("p", 3)
    assert rollout.weights_version == 0
    assert rollout.sampling["seed"] == 5 and rollout.sampling["temperature"] == 1.0
    assert rollout.finish_reason == "stop"
    assert rollout.token_ids[-1] == prompter.end_id
    assert rollout.text == prompter.decode(rollout.token_ids)
    assert "<|im_end|>" not in rollout.text


def test_greedy_and_sampled_requests_of_one_call_give_what_they_give_in_two(
    driver: Driver, picture: str
) -> None:
    sampled = [ask(image, seed=s, index=s) for image in (None, picture) for s in range(3)]
    greedy = [dataclasses.replace(request, is_greedy=True) for request in sampled[::3]]
    limits = {"top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    plain = [dataclasses.replace(request, is_greedy=False) for request in greedy]
    apart = driver.generate(*sampled, temperature=0.9, **limits)
    apart += driver.generate(*plain, temperature=0.0, **limits)
    together = driver.generate(*sampled, *greedy, temperature=0.9, **limits)
    assert [r.token_ids for r in together] == [r.token_ids for r in apart]
    assert len({r.token_ids for r in together}) > len(greedy)
    assert [r.sampling for r in together] == [r.sampling for r in apart]
    assert [(r.key, r.is_greedy) for r in together] == [
        (r.key, r.is_greedy) for r in (*sampled, *greedy)
    ]


def test_a_response_that_is_cut_says_so(driver: Driver, picture: str) -> None:
    rollout = driver.generate(ask(picture), max_tokens=1)[0]
    assert (rollout.finish_reason, len(rollout.token_ids)) == ("length", 1)


def test_picture_tokens_are_never_sampled_even_where_the_model_wants_nothing_else(
    driver: Driver, picture: str, files: Path
) -> None:
    eager = perturbed(files / "eager", seed=2)
    tensors = load_file(eager / "model.safetensors")
    banned = sorted(Prompter(MODEL, PROMPT).placeholder_ids)
    embedding = next(n for n in tensors if n.endswith("embed_tokens.weight"))
    # The head is tied to the embedding: rows along the hidden state win wherever it is looked at.
    tensors[embedding][banned] = 20 * _favourite_direction(eager)
    save_file(tensors, eager / "model.safetensors", metadata={"format": "pt"})
    driver.load(4, eager)
    item = ProbeItem(Prompter(MODEL, PROMPT).prompt_ids(ask().problem), tuple(banned))
    assert max(driver.score([item])[0]) > -2  # it does want them
    for temperature in (0.0, 1.0):
        requests = [ask(picture, seed=s) for s in range(4)]
        for rollout in driver.generate(*requests, temperature=temperature):
            assert not set(rollout.token_ids) & set(banned)


def _favourite_direction(directory: Path) -> torch.Tensor:
    """The last hidden state of a text prompt, to which a row of the head can be made parallel."""
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.tensor([Prompter(MODEL, PROMPT).prompt_ids(ask().problem)])
    with torch.no_grad():
        out = model(
            input_ids=ids, mm_token_type_ids=torch.zeros_like(ids), output_hidden_states=True
        )
    last = out.hidden_states[-1][0, -1]
    return last / last.norm()


def test_a_loop_ends_as_repetition(driver: Driver, files: Path) -> None:
    directory = perturbed(files / "loop", seed=3)
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in tensors.items():
        if "layers." in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()  # nothing but the embedding is left: each token calls for itself
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    driver.load(5, directory)
    rollout = driver.generate(ask(), temperature=0.0, max_tokens=200)[0]
    assert rollout.finish_reason == "repetition"
    assert len(rollout.token_ids) < 200


def test_a_picture_that_was_seen_before_a_load_can_be_asked_about_again(
    driver: Driver, picture: str, other_weights: Path
) -> None:
    first = driver.generate(ask(picture), temperature=0.0)[0]
    for version, path in ((1, other_weights), (2, other_weights), (0, resolve_model("tiny"))):
        driver.load(version, path)
        last = driver.generate(ask(picture), temperature=0.0)[0]
        assert last.weights_version == version
    assert last.token_ids == first.token_ids


def test_pictures_that_are_in_the_cache_are_not_counted(driver: Driver, files: Path) -> None:
    pictures = [draw(files / f"counted{num}.png", num) for num in (2, 4)]
    before = driver.engine.num_pictures
    driver.generate(*(ask(path) for path in pictures for _ in range(4)))
    assert driver.engine.num_pictures - before == 2
    driver.load(0, resolve_model("tiny"))  # empties the caches
    driver.generate(ask(pictures[0]))
    assert driver.engine.num_pictures - before == 3


def test_a_picture_that_changed_on_disk_is_not_served_from_a_cache(
    driver: Driver, files: Path
) -> None:
    path = draw(files / "changing.png", 1)
    items = [ProbeItem(Prompter(MODEL, PROMPT).prompt_ids(ask(path).problem), (5, 6, 7), path)]
    before = driver.score(items)
    draw(files / "changing.png", 3)
    assert driver.score(items) != before


def test_every_fault_of_a_push_is_found_by_checksum_or_probe(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short form of `scripts/probe_faults.py`: see docs/probe.md."""
    # vLLM's own process must have the faults, so this needs an engine of its own.
    monkeypatch.setattr("virgo_ray.rollout.arguments.EXTENSION", "push_faults.FaultyExtension")
    directory = files / "faults"
    directory.mkdir()
    cfg = probe_faults.configure(directory, "push.probe_tokens=300", "rollout.kv_cache_gib=0.1")
    lab = probe_faults.Lab(cfg, directory)
    try:
        found = {result.push: result.by for result in probe_faults.results(lab, steps=2)}
    finally:
        lab.close()
    by_probe = ("stale head", "one stale layer", "q and k swapped", "stale prefix cache")
    assert found == {
        "version 0": (), "none": (), "one bit of a file": ("checksum",),
        "stale whole": ("checksum", "probe"), **dict.fromkeys(by_probe, ("probe",)),
    }  # fmt: skip


def test_weights_that_lack_a_tensor_are_refused(driver: Driver, files: Path) -> None:
    directory = perturbed(files / "partial", seed=4)
    tensors = load_file(directory / "model.safetensors")
    del tensors[next(n for n in tensors if n.endswith("k_proj.weight"))]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match="does not fill 1 layers"):
        driver.load(6, directory)
    with pytest.raises(RolloutError, match="half-loaded"):
        driver.generate(ask(), max_tokens=1)
    driver.load(0, resolve_model("tiny"))
    assert driver.generate(ask(), max_tokens=1)


@pytest.mark.parametrize("name", ["mtp.fc.weight", "mtp.head.weight"])
def test_tensors_without_a_place_are_passed_over_when_weights_are_loaded(
    driver: Driver, picture: str, files: Path, name: str
) -> None:
    """Those that the engine's base has too, and those that only a teacher has."""
    items = probe_items(driver, picture)
    carrying = with_extra_tensor(perturbed(files / name, seed=5), name)
    driver.load(7, carrying)
    assert largest([compare(plain_logprobs(carrying, items), driver.score(items))]) < LIMIT


def test_vllm_makes_as_many_image_tokens_of_a_published_checkpoint_as_the_run(files: Path) -> None:
    path = str(files / "large.png")
    Image.new("RGB", (400, 300), "white").save(path)
    bounds = MODEL.model_copy(update={"max_pixels": 2048})
    numbers = []
    for model in (MODEL, bounds):
        directory = shutil.copytree(resolve_model("tiny"), files / f"bound_{model.max_pixels}")
        write_pixel_bounds(directory, model)
        config = VllmModelConfig(model=str(directory), max_model_len=384, dtype="float32")
        info: Any = MULTIMODAL_REGISTRY.create_processor(config).info
        found = info.get_num_image_tokens(
            image_width=400,
            image_height=300,
            image_processor=info.get_image_processor(),
            mm_kwargs={},
        )
        assert found == Prompter(model, PROMPT).num_image_tokens(path)
        numbers.append(found)
    assert numbers[0] > numbers[1]


def test_a_load_with_requests_in_flight_is_refused(driver: Driver, other_weights: Path) -> None:
    async def load_too_early() -> None:
        waiting = await driver.submit_paused([ask()])
        try:
            await driver.engine.load(Weights(1, str(other_weights)))
        finally:
            await driver.vllm.resume_generation()
            await waiting

    with pytest.raises(PushError, match="in flight"):
        driver.run(load_too_early())


def test_a_request_ends_in_vllm_with_the_task_that_waits_for_it(driver: Driver) -> None:
    async def cancel_it() -> None:
        waiting = await driver.submit_paused([ask(seed=s) for s in range(3)])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await driver.vllm.resume_generation()
        assert driver.vllm.get_num_unfinished_requests() == 0

    driver.run(cancel_it())
    assert driver.generate(ask(), max_tokens=1)


def test_a_prompt_that_is_too_long_names_its_problem(driver: Driver) -> None:
    request = Request(Problem("endless", "how many squares " * 400, "3"), 0, 0)
    with pytest.raises(RolloutError, match="'endless' cannot be asked"):
        driver.generate(request)


def test_memory_does_not_grow_with_the_shapes_of_batches(driver: Driver, picture: str) -> None:
    """oneDNN keeps a kernel for every number of tokens: 100 MiB here, if it is left to itself."""
    rng, problem = random.Random(0), Problem("p", "How many?", "3", (picture,))

    def own_mib_after(num_batches: int) -> float:
        for _ in range(num_batches):
            many = (Request(problem, 0, rng.randrange(2**31)) for _ in range(rng.randint(4, 24)))
            driver.generate(*many, max_tokens=rng.randint(8, 24))
        children = psutil.Process().children(recursive=True)
        return sum(float(child.memory_full_info().uss) for child in children) / 2**20

    before = own_mib_after(15)
    assert own_mib_after(60) < before + 40


def test_no_process_outlives_an_owner_that_was_killed(files: Path) -> None:
    script = files / "owner.py"
    script.write_text(
        "import asyncio, time\n"
        "from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig\n"
        "from virgo_ray.rollout.engine import RolloutEngine\n"
        "if __name__ == '__main__':\n"
        "    model = ModelConfig(path='tiny', dtype='float32', max_length=384)\n"
        "    rollout = RolloutConfig(kv_cache_gib=0.1, enforce_eager=True)\n"
        "    engine = RolloutEngine(model, PromptConfig(), rollout)\n"
        "    asyncio.run(engine.start())\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    owner = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert owner.stdout is not None
        while line := owner.stdout.readline():
            if line.strip() == b"ready":
                break
        children = psutil.Process(owner.pid).children(recursive=True)
        assert children
        for child in children:  # as one that is stuck, whose threads do not run
            if "resource_tracker" not in " ".join(child.cmdline()):  # Python's own; nothing in it
                child.suspend()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    deadline = time.monotonic() + 20
    while any(c.is_running() for c in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(("num_gpus", "executor"), [(1, "uni"), (8, "mp")])
def test_on_gpus_vllm_starts_its_own_processes_and_knows_every_argument(
    num_gpus: int, executor: str
) -> None:
    rollout = ROLLOUT.model_copy(update={"gpus_per_worker": num_gpus})
    args = engine_args(MODEL, rollout, can_sleep=True)
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert args.keys() - known == set()
    assert args["distributed_executor_backend"] == executor
    assert (args["tensor_parallel_size"], args["enable_sleep_mode"]) == (num_gpus, True)
    assert "kv_cache_memory_bytes" not in args


@pytest.mark.parametrize("num_gpus", [0, 1, 8])
def test_what_the_run_sets_of_an_engine_can_be_set_by_no_key_that_is_handed_through(
    num_gpus: int,
) -> None:
    """But for two numbers that may be other ones."""
    rollout = ROLLOUT.model_copy(update={"gpus_per_worker": num_gpus})
    args = engine_args(MODEL, rollout, can_sleep=bool(num_gpus))
    free = {"max_num_batched_tokens", "mm_processor_cache_gb"}
    assert free <= args.keys() and "hf_overrides" in args
    assert args.keys() - free <= REFUSED_ENGINE_ARGS.keys()


@pytest.mark.parametrize("tied", [True, False])
def test_the_config_of_the_whole_model_says_whether_its_head_is_tied(tied: bool) -> None:
    model = torch.nn.Module()
    model.config = Qwen2_5_VLConfig(text_config={"hidden_size": 64}, tie_word_embeddings=tied)
    assert not hasattr(model.config.get_text_config(), "tie_word_embeddings")  # as on the hub
    assert _is_tied(model) is tied


def test_a_cache_that_could_not_be_woken_is_woken_by_the_next_who_needs_it() -> None:
    woken: list[list[str]] = []

    class FailingOnce:
        async def wake_up(self, tags: list[str]) -> None:
            woken.append(tags)
            if len(woken) == 1:
                raise RuntimeError("no memory")

    engine = RolloutEngine(MODEL, PROMPT, ROLLOUT)
    engine._engine, engine._is_cache_asleep = FailingOnce(), True
    with pytest.raises(RuntimeError, match="no memory"):
        asyncio.run(engine._wake_cache())
    asyncio.run(engine._wake_cache())
    asyncio.run(engine._wake_cache())
    assert woken == [["kv_cache"], ["kv_cache"]]
