"""What a trainer sends from memory is, bit for bit, what it publishes; one rank, no engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
import train_ranks
from safetensors.torch import load_file

from virgo_ray.actors.rollouts.stream import make_offers
from virgo_ray.config import Config, load_config
from virgo_ray.records import Weights
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.sending import device_of
from virgo_ray.weights.offer import STREAM
from virgo_ray.weights.streams import receiver_of

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def trained(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine that holds version 1 and has received it by every transport, then settled."""
    directory = tmp_path_factory.mktemp("sending")
    small_model.build(directory / "model")
    train_ranks.draw_images(directory)
    cfg = train_ranks.config(directory, "sending", 1, num_epochs=1.0, lora={"rank": 4})
    model = cfg.model.model_copy(update={"dtype": "bfloat16"})
    cfg = Config.model_validate(cfg.model_copy(update={"model": model}).model_dump())
    engine = TrainEngine(cfg)
    start = Weights(0, str(directory / "model"))
    report = engine.fit(train_ranks.plan(directory, cfg), start, 1)
    received = {kind: stream(engine, kind) for kind in ("ipc", "broadcast", "adapter")}
    engine.settle()
    assert engine.open_push(1, "ipc", "127.0.0.1", ["a"], DEADLINE_S) is None
    published = load_file(Path(report.weights.path) / "model.safetensors")
    return start, published, received, cfg


def stream(engine: TrainEngine, kind: Any) -> dict[str, torch.Tensor]:
    """One push to a receiver in this process."""
    sending = engine.open_push(1, kind, "127.0.0.1", ["the receiver"], DEADLINE_S)
    assert sending is not None
    (offer,) = make_offers(sending.opening, kind, 1, {0: 1}, DEADLINE_S).values()
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(sending.send)
        receiver = receiver_of(offer, 0)
        tensors = {name: tensor.clone() for name, tensor in receiver.receive("")}
        assert receiver.read == {STREAM: sent.result(timeout=DEADLINE_S).digest}
        receiver.close()
    return tensors


@pytest.mark.parametrize("kind", ["ipc", "broadcast", "adapter"])
def test_what_is_sent_from_memory_is_what_is_published(trained: Any, kind: str) -> None:
    start, published, received, _ = trained
    assert received[kind].keys() == published.keys()
    for name, tensor in published.items():
        assert tensor.dtype == received[kind][name].dtype
        assert torch.equal(tensor.view(torch.uint8), received[kind][name].view(torch.uint8)), name
    base = load_file(Path(start.path) / "model.safetensors")
    changed = [name for name in base if not torch.equal(base[name], published[name])]
    assert any("q_proj" in name for name in changed), "adapters"
    assert any("merger" in name for name in changed), "the connector, trained beside them"


def test_checkpoints_of_a_fit_that_was_killed_after_it_published_go_when_it_is_taken_up(
    trained: Any,
) -> None:
    start, *_, cfg = trained
    left = Path(cfg.run_dir) / "checkpoints" / "round_fit_v0001"
    assert not left.exists()
    (left / "fit_of_before" / "step_000001").mkdir(parents=True)
    directory = Path(start.path).parent
    assert TrainEngine(cfg).fit(train_ranks.plan(directory, cfg), start, 1).weights.version == 1
    assert not left.exists()


@pytest.mark.parametrize(
    ("kind", "mode", "device"),
    [
        ("ipc", "colocated", "cuda"),
        ("ipc", "disaggregated", "cpu"),
        ("broadcast", "colocated", "cpu"),
        ("broadcast", "disaggregated", "cuda"),
        ("adapter", "colocated", "cpu"),
        ("adapter", "disaggregated", "cpu"),
    ],
)
def test_buckets_lie_on_gpus_only_where_the_transport_can_take_them_from_there(
    kind: Any, mode: str, device: str
) -> None:
    gpus = ["train.gpus_per_worker=1", "rollout.gpus_per_worker=1"]
    cfg = load_config("configs/tiny.yaml", [*gpus, f"placement.mode={mode}"])
    assert device_of(kind, cfg) == device
    assert device_of(kind, load_config("configs/tiny.yaml", [])) == "cpu"
