"""Versions that are published without tensors: which, what is said of them, how they get them."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from virgo_ray.config import WeightsConfig, load_config
from virgo_ray.errors import DroppedWeightsError
from virgo_ray.ledger.file import what_is_left
from virgo_ray.model.dropped import is_remade, say_dropped
from virgo_ray.weights.manifest import check_weights, read_manifest
from virgo_ray.weights.publish import publish, published
from virgo_ray.weights.remade import (
    find_lost,
    keeps_tensors,
    publish_without,
    read_needs,
    remove_killed_tries,
    restore,
    with_needs,
)
from virgo_ray.weights.retention import choose_droppable

WHY = "weights.publish_every=3"


def nothing_known(draft):
    return {}


def writer(value=1.0, start=1, below=None, said="first"):
    """Writes a version with a tensor, adapters, a probe and a record of its fit."""

    def write(directory):
        save_file({"a": np.full(4, value)}, directory / "model.safetensors")
        (directory / "probe.json").write_text(json.dumps(value))
        (directory / "fit.json").write_text(json.dumps({"start": {"version": start}, "s": said}))
        (directory / "adapters").mkdir()
        save_file({"b": np.full(2, value)}, directory / "adapters/adapters.safetensors")
        about = {} if below is None else {"version": below}
        (directory / "adapters/about.json").write_text(json.dumps(about))

    return write


@pytest.fixture
def root(tmp_path):
    publish(tmp_path / "weights", 1, writer(start=0, below=0))
    for version in (2, 3):
        write = writer(float(version), start=version - 1, below=0)
        publish_without(tmp_path / "weights", version, write, nothing_known, WHY)
    return tmp_path / "weights"


@pytest.mark.parametrize(
    "every, written", [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (4, [1, 5, 6]), (9, [1, 6])]
)
def test_every_so_many_rounds_and_the_last_are_written(every, written):
    cfg = load_config("configs/tiny.yaml", ["rounds=5", f"weights.publish_every={every}"])
    assert [v for v in range(1, 7) if keeps_tensors(cfg, v)] == written


def test_rounds_that_are_not_written_cannot_be_kept():
    with pytest.raises(ValueError, match="keep_every=4 would keep rounds that publish_every=3"):
        WeightsConfig(keep_last=1, keep_every=4, publish_every=3)
    WeightsConfig(keep_last=1, keep_every=6, publish_every=3)


def test_a_version_without_tensors_has_all_else_and_says_why(root):
    left = {p.name for p in (root / "v0002").rglob("*") if p.is_file()}
    assert left == {"manifest.json", "DONE", "DROPPED", "probe.json", "fit.json", "about.json"}
    manifest = read_manifest(root / "v0002", may_be_dropped=True)
    assert {"model.safetensors", "adapters/adapters.safetensors"} < manifest.files.keys()
    assert is_remade(root / "v0002") and WHY in say_dropped(root / "v0002")
    with pytest.raises(DroppedWeightsError, match="published without its tensors"):
        published(root, 2)
    said = what_is_left(root.parent)
    assert "whole weights: v0001; not written (weights.publish_every): v0002, v0003" in said


def test_the_same_tensors_are_put_back_and_nothing_else_changes(root):
    before = read_manifest(root / "v0002", may_be_dropped=True)
    assert not restore(root, 2, writer(2.0, below=0, said="again"), nothing_known)
    assert check_weights(root / "v0002") == before and not say_dropped(root / "v0002")
    assert json.loads((root / "v0002/fit.json").read_text())["s"] == "first"
    assert not list(root.glob("again-*"))


def test_what_a_killed_try_left_goes_whichever_version_it_was_of(root):
    remove_killed_tries(root / "not there yet")
    for version in (2, 3):
        (root / f"again-v000{version}" / "adapters").mkdir(parents=True)
    restore(root, 2, writer(2.0, below=0), nothing_known)
    assert not list(root.glob("again-*"))
    (root / "again-v0003").mkdir()
    remove_killed_tries(root)
    assert {p.name for p in root.iterdir()} == {"v0001", "v0002", "v0003"}


def test_other_tensors_bring_their_own_files_and_are_named(root):
    said = restore(root, 2, writer(2.5, below=0, said="again"), nothing_known)
    assert said == (
        "adapters/adapters.safetensors, model.safetensors of version 2 came out otherwise"
    )
    check_weights(root / "v0002")
    assert json.loads((root / "v0002/fit.json").read_text())["s"] == "again"
    assert json.loads((root / "v0002/probe.json").read_text()) == 2.5


def test_what_is_lost_is_trained_again_from_the_last_that_is_written(root):
    assert read_needs(root, [1, 2, 3]) == {2: {1}, 3: {2}}
    assert find_lost(root, [1, 2, 3], 3) == [2, 3] and find_lost(root, [1, 2, 3], 1) == []
    publish_without(root, 4, writer(start=0, below=2), nothing_known, WHY)
    assert find_lost(root, [1, 2, 3, 4], 4) == [2, 4]  # adapters that belong on version 2
    assert with_needs([4], {4: [2], 2: [1], 3: [2]}) == {1, 2, 4}


def test_what_the_newest_is_made_again_from_is_not_dropped():
    from test_retention_rule import rounds

    made = rounds(0.1, 0.2, 0.3, 0.4)
    rule = WeightsConfig(keep_last=1, publish_every=3)
    assert choose_droppable(rule, made) == [1, 2, 3]
    assert choose_droppable(rule, made, None, None, {4: {3}, 3: {1}}) == [2]
