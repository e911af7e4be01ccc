"""Weights that reach a real engine through a stream, and what a stream that breaks leaves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig
from virgo_ray.errors import RolloutError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Weights
from virgo_ray.rollout.engine import RolloutEngine
from virgo_ray.weights.adapter import AdapterUpdate, LowRank, merge
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.probe import ProbeItem
from virgo_ray.weights.streams import Sender, open_sender

T = TypeVar("T")
MODEL = ModelConfig(path="tiny", dtype="float32", max_length=384)
ROLLOUT = RolloutConfig(kv_cache_gib=0.1, max_in_flight=4, enforce_eager=True)
DEADLINE_S = 60.0
NEW = 0.3  # of a tensor's deviation: how far the new weights are from the base


class CutError(Exception):
    """What ends a stream in these tests."""


class Lab:
    """One engine, its event loop, and a thread that sends."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = RolloutEngine(MODEL, PromptConfig(), ROLLOUT)
        self.run(self.engine.start())
        self.base = Path(resolve_model("tiny"))
        self.new = perturbed(directory / "new")
        self.tensors = in_order(self.new)
        self.threads = ThreadPoolExecutor(1)
        prompt = Prompter(MODEL, PromptConfig()).prompt_ids(Problem("p", "How many?", "3"))
        self.items = [ProbeItem(prompt, tuple(range(5, 25)))]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def load_disk(self, path: Path, version: int = 1) -> None:
        self.run(self.engine.load(Weights(version, str(path))))

    def push(
        self,
        kind: str,
        tensors: Iterable[tuple[str, Tensor]],
        update: AdapterUpdate | None = None,
        bucket_bytes: int = 1 << 20,
        path: Path | None = None,
    ) -> tuple[str, BaseException | None, BaseException | None]:
        """The sender's digest, its error, and the engine's."""
        sender = open_sender(kind, "127.0.0.1", 1, DEADLINE_S, bucket_bytes=bucket_bytes)
        base = str(self.base) if update else ""
        offer = Offer(kind, 1, "127.0.0.1", sender.port, sender.nonce, 0, 1, DEADLINE_S, base)
        sending = self.threads.submit(Sender.send, sender, tensors, update)
        failed = None
        try:
            self.run(self.engine.load(Weights(1, str(path or self.new)), offer))
        except Exception as error:  # vLLM's has no type of its own
            failed = error
        broken = sending.exception(timeout=DEADLINE_S)
        sender.close()
        return "" if broken else sending.result(timeout=0), broken, failed

    def state(self) -> tuple[list[list[float]], dict[str, str]]:
        """All that can be seen of the weights: log-probabilities, and a checksum each."""
        (sums,) = self.run(self.engine._engine.compute_weight_checksums())
        return self.run(self.engine.score(self.items)), sums

    def close(self) -> None:
        self.threads.shutdown()
        self.engine.close()
        self.run(asyncio.sleep(0.1))
        self.loop.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("streams"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def expected(lab: Lab) -> tuple[list[list[float]], dict[str, str]]:
    """The state after the new weights were loaded from disk by an engine that had the base."""
    before = lab.state()
    lab.load_disk(lab.new)
    after = lab.state()
    assert after[0] != before[0]
    assert sum(after[1][name] != before[1][name] for name in after[1]) > len(after[1]) / 2
    return after


@pytest.fixture(autouse=True)
def on_base(lab: Lab, expected: object) -> None:
    """Every test begins with the base's weights in the engine."""
    lab.load_disk(lab.base, 0)


def perturbed(directory: Path) -> Path:
    """A copy of the tiny model with every weight a little off."""
    shutil.copytree(resolve_model("tiny"), directory)
    generator = torch.Generator().manual_seed(1)
    noisy = {
        name: t + NEW * t.std().nan_to_num() * torch.randn(t.shape, generator=generator)
        for name, t in load_file(directory / "model.safetensors").items()
    }
    save_file(noisy, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def in_order(directory: Path) -> dict[str, Tensor]:
    """As they are read from disk."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}


def cut(tensors: dict[str, Tensor], at: int) -> Iterator[tuple[str, Tensor]]:
    for index, item in enumerate(tensors.items()):
        if index == at:
            raise CutError(f"at tensor {at}")
        yield item


@pytest.mark.parametrize("kind", ["broadcast", "ipc"])
def test_an_engine_that_was_sent_weights_is_the_one_that_read_them_from_disk(lab, expected, kind):
    digest, broken, failed = lab.push(kind, lab.tensors.items())
    assert (broken, failed) == (None, None)
    assert lab.engine.read == {"stream": digest} and lab.engine.version == 1
    assert lab.state() == expected


def test_what_lies_half_written_in_the_directory_of_a_version_that_is_sent_is_not_read(
    lab, expected, tmp_path
):
    (tmp_path / "model.safetensors").write_bytes(b"being published")
    assert lab.push("ipc", lab.tensors.items(), path=tmp_path)[1:] == (None, None)
    assert lab.state() == expected


@pytest.mark.parametrize("kind", ["broadcast", "ipc"])
def test_weights_may_come_in_any_order_and_in_buckets_of_any_size(lab, expected, kind):
    backwards = dict(reversed(lab.tensors.items()))
    assert lab.push(kind, backwards.items(), bucket_bytes=1)[1:] == (None, None)
    assert lab.state() == expected


def test_an_engine_merges_adapters_to_what_the_trainer_published(lab, tmp_path):
    """Adapters on all layers of attention, and a tensor of the vision tower trained beside."""
    base = in_order(lab.base)
    generator = torch.Generator().manual_seed(2)
    update = adapters_for(base, generator)
    merged = dict(base)
    for name, adapter in update.adapters.items():
        once = merge(base[name], adapter.down, adapter.up, adapter.scale)
        merged[name] = merge(once, adapter.down, torch.zeros_like(adapter.up), adapter.scale)
    for name in update.whole:
        merged[name] = base[name] + 0.1
    published = shutil.copytree(lab.base, tmp_path / "published")
    save_file(merged, published / "model.safetensors", metadata={"format": "pt"})
    lab.load_disk(published)
    expected = lab.state()
    lab.load_disk(lab.base, 0)
    assert lab.state() != expected
    digest, broken, failed = lab.push("adapter", merged.items(), update)
    assert (broken, failed) == (None, None)
    assert lab.engine.read == {"stream": digest}
    assert lab.state() == expected


def adapters_for(base: dict[str, Tensor], generator: torch.Generator) -> AdapterUpdate:
    adapters = {}
    for name, weight in base.items():
        if name.endswith(("q_proj.weight", "o_proj.weight", "up_proj.weight")):
            down = torch.randn(4, weight.shape[1], generator=generator)
            up = torch.randn(weight.shape[0], 4, generator=generator)
            adapters[name] = LowRank(down, up, 0.05)
    whole = next(name for name in base if "visual" in name)
    return AdapterUpdate(adapters, frozenset([whole]))


def test_weights_that_lack_a_tensor_or_have_a_wrong_shape_are_refused_and_the_next_are_exact(
    lab, expected
):
    name = next(name for name in lab.tensors if name.endswith("k_proj.weight"))
    lacking = {n: t for n, t in lab.tensors.items() if n != name}
    _, _, failed = lab.push("ipc", lacking.items())
    assert "does not fill 1 layers" in str(failed)
    bent = {n: (t[:-1] if n == name else t) for n, t in lab.tensors.items()}
    _, broken, failed = lab.push("ipc", bent.items(), bucket_bytes=1)
    assert failed is not None and "could not load what was sent" in str(broken)
    lab.load_disk(lab.new)
    assert lab.state() == expected


def test_a_stream_that_broke_leaves_an_engine_that_serves_nothing(lab):
    with pytest.raises(RolloutError, match="half-loaded"):
        _, broken, failed = lab.push("ipc", cut(lab.tensors, 9), bucket_bytes=1)
        assert isinstance(broken, CutError) and "sender stopped" in str(failed)
        assert lab.engine.version is None and not lab.engine.is_dead
        lab.engine._served_version()


def cut_and_retry(lab: Lab, expected: object, indices: Iterable[int]) -> None:
    """Cut before tensor i, then load from disk in the same engine, for every i."""
    for index in indices:
        kind = "broadcast" if index % 16 == 5 else "ipc"  # a group takes longer to meet
        _, broken, failed = lab.push(kind, cut(lab.tensors, index), bucket_bytes=1)
        assert isinstance(broken, CutError) and failed is not None
        assert not lab.engine.is_dead
        lab.load_disk(lab.new)
        assert lab.state() == expected, f"after a cut at tensor {index}"
        lab.load_disk(lab.base, 0)


def test_a_cut_at_the_edges_of_a_layer_and_inside_heals(lab, expected):
    names = list(lab.tensors)
    inside = [i for i, name in enumerate(names) if ".layers.1." in name]
    cut_and_retry(lab, expected, [0, 1, *inside[:1], *inside[2:6:2], len(names) - 1])


@pytest.mark.slow
def test_a_cut_at_every_tensor_heals(lab, expected):
    cut_and_retry(lab, expected, range(len(lab.tensors)))
