"""Which way weights take, by config and placement."""

import pytest

from virgo_ray.actors.rollouts.choice import (
    Situation,
    choose_transport,
    read_allocator,
    refuse_transport,
)
from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError

TINY = "configs/tiny.yaml"
LORA = ("train.lora.rank=4",)
ALONE = (*LORA, "train.freeze_connector=true")


def config(*overrides):
    return load_config(TINY, overrides)


@pytest.mark.parametrize(
    ("overrides", "now", "transport"),
    [
        ((), Situation(1), "ipc"),
        ((), Situation(2), "broadcast"),
        ((), Situation(1, is_expandable=True), "broadcast"),
        ((), Situation(1, has_failed=True), "disk"),
        (ALONE, Situation(1), "adapter"),
        (ALONE, Situation(2), "adapter"),
        (ALONE, Situation(1, has_failed=True), "disk"),
        (LORA, Situation(1), "ipc"),  # the connector is trained, too
        (("push.transport=disk",), Situation(1), "disk"),
        (("push.transport=broadcast",), Situation(1, has_failed=True), "broadcast"),
        (("push.transport=ipc",), Situation(1, has_failed=True), "ipc"),
        (("push.transport=ipc",), Situation(2), "disk"),  # an engine went to another node
        ((*LORA, "push.transport=adapter"), Situation(2), "adapter"),
    ],
)
def test_the_way_follows_from_config_and_placement(overrides, now, transport):
    assert choose_transport(config(*overrides), now).transport == transport


@pytest.mark.parametrize(
    ("now", "said"),
    [(Situation(3), "are on 3 nodes"), (Situation(1, is_expandable=True), "expandable_segments")],
)
def test_shared_memory_that_cannot_be_is_refused(now, said):
    with pytest.raises(ConfigError, match=said):
        refuse_transport(config("push.transport=ipc"), now)
    refuse_transport(config("push.transport=auto"), now)
    refuse_transport(config("push.transport=ipc"), Situation(1))


@pytest.mark.parametrize(
    ("num_gpus", "value", "is_expandable"),
    [
        (1, "expandable_segments:True", True),
        (1, "max_split_size_mb:64, expandable_segments: True", True),
        (1, "expandable_segments:False", False),
        (0, "expandable_segments:True", False),
    ],
)
@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_only_gpus_have_expandable_segments(monkeypatch, name, num_gpus, value, is_expandable):
    for other in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    cfg = config(f"train.gpus_per_worker={num_gpus}", f"rollout.gpus_per_worker={num_gpus}")
    assert read_allocator(cfg) == is_expandable


@pytest.mark.parametrize(
    ("num_ranks", "mode", "transport"),
    [(4, "colocated", "ipc"), (2, "colocated", "broadcast"), (2, "disaggregated", "ipc")],
)
def test_an_engine_on_gpus_without_a_trainer_has_no_memory_to_share(num_ranks, mode, transport):
    gpus = (
        "train.gpus_per_worker=1", "rollout.gpus_per_worker=2", "rollout.num_workers=2",
        f"train.num_workers={num_ranks}", f"placement.mode={mode}",
    )  # fmt: skip
    assert choose_transport(config(*gpus), Situation(1)).transport == transport
    if transport == "broadcast":
        with pytest.raises(ConfigError, match="have no trainer rank"):
            refuse_transport(config(*gpus, "push.transport=ipc"), Situation(1))
