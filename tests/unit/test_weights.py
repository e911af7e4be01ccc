"""Publishing, checking and receiving weights; the parity probe's arithmetic."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from virgo_ray.errors import WeightsError
from virgo_ray.weights.manifest import TensorInfo, build_manifest, check_weights, tensor_table
from virgo_ray.weights.probe import (
    Probe,
    ProbeItem,
    identify,
    is_probe_of,
    probe_path,
)
from virgo_ray.weights.publish import publish, published, version_dir
from virgo_ray.weights.transport import DiskTransport


def write_model(directory: Path) -> None:
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, directory / "model-1.safetensors")
    save_file({"b": torch.ones(4, dtype=torch.bfloat16)}, directory / "model-2.safetensors")
    (directory / "config.json").write_text("{}")


def test_a_version_is_published_whole_and_found_again(tmp_path: Path) -> None:
    assert published(tmp_path, 3) is None
    weights = publish(tmp_path, 3, write_model)
    assert weights.path == str(tmp_path / "v0003")
    assert published(tmp_path, 3) == weights
    assert check_weights(weights.path).tensors == {
        "a": TensorInfo((2, 3), "F32", "model-1.safetensors"),
        "b": TensorInfo((4,), "BF16", "model-2.safetensors"),
    }
    assert [p.name for p in tmp_path.iterdir()] == ["v0003"]


def test_publishing_a_second_time_writes_nothing(tmp_path: Path) -> None:
    first = publish(tmp_path, 1, write_model)

    def never(directory: Path) -> None:
        raise AssertionError("a published version was written again")

    assert publish(tmp_path, 1, never) == first


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def half(directory: Path) -> None:
        write_model(directory)
        raise OSError("disk full")

    with pytest.raises(WeightsError, match="disk full; the versions before are intact"):
        publish(tmp_path, 1, half)
    assert list(tmp_path.iterdir()) == []
    assert published(tmp_path, 1) is None


def test_what_a_killed_try_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".v0001.tmp-999").mkdir()
    (tmp_path / "v0001").mkdir()  # an interrupted copy: no DONE
    (tmp_path / "v0001" / "model.safetensors").write_bytes(b"half")
    publish(tmp_path, 1, write_model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-v0001-1", "v0001"]
    assert (tmp_path / "damaged-v0001-1/model.safetensors").read_bytes() == b"half"
    check_weights(tmp_path / "v0001")


def test_a_model_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no tensors"):
        publish(tmp_path, 1, lambda d: None)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        save_file({"same": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"'same' is in x\.safetensors and in y\.safetensors"):
        tensor_table(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "DONE").unlink(), "DONE is missing"),
        (lambda d: (d / "config.json").unlink(), "config.json is missing, expected 2 bytes"),
        (lambda d: (d / "config.json").write_text("{ }"), "has 3 bytes, expected 2"),
        (lambda d: (d / "config.json").write_text("[]"), "has sha256"),
        (lambda d: (d / "manifest.json").write_text('{"tensors": [], "files": []}'), "malformed"),
        (lambda d: (d / "manifest.json").write_text("{"), "malformed"),
        (lambda d: save_file({"c": torch.zeros(1)}, d / "more.safetensors"), "first is 'c'"),
    ],
)
def test_damage_after_publication_is_found(tmp_path: Path, damage, message: str) -> None:
    weights = publish(tmp_path, 1, write_model)
    damage(Path(weights.path))
    with pytest.raises(WeightsError, match=message):
        check_weights(weights.path)


def test_without_checksums_the_bytes_of_tensors_alone_are_left_to_others(tmp_path: Path) -> None:
    weights = publish(tmp_path, 1, write_model)
    file = next(Path(weights.path).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    check_weights(weights.path, checksums=False)
    (Path(weights.path) / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="changed after DONE"):
        check_weights(weights.path, checksums=False)


def test_a_directory_of_another_version_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, 1, write_model)
    version_dir(tmp_path, 1).rename(version_dir(tmp_path, 2))
    with pytest.raises(WeightsError, match="holds version 1, expected 2"):
        published(tmp_path, 2)


def test_the_disk_transport_yields_every_tensor_once(tmp_path: Path) -> None:
    weights = publish(tmp_path, 1, write_model)
    received = list(DiskTransport().receive(weights.path))
    assert [name for name, _ in received] == ["a", "b"]
    assert dict(received)["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert dict(received)["b"].dtype == torch.bfloat16


def test_the_disk_transport_says_which_bytes_it_read(tmp_path: Path) -> None:
    """What the manifest says, whatever the order of names and dtypes; another bit shows."""
    tensors = {"z": torch.ones(3), "scalar": torch.tensor(2.0), "b16": torch.ones(5).bfloat16()}
    seen = []
    for value in (1.0, 1.0 + 2**-23):
        tensors["z"][1] = value
        for name in ("model-1.safetensors", "model-2.safetensors"):
            own = {f"{name[6]}.{k}": t for k, t in tensors.items()}
            save_file(own, tmp_path / name, metadata={"format": "pt"})
        transport = DiskTransport()
        assert len(list(transport.receive(str(tmp_path)))) == 6
        files = build_manifest(tmp_path, 1).files
        assert transport.read == {name: file.sha256 for name, file in files.items()}
        seen.append(transport.read)
    assert seen[0].keys() == seen[1].keys() and not set(seen[0].values()) & set(seen[1].values())


def test_the_disk_transport_refuses_a_directory_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no"):
        next(DiskTransport().receive(str(tmp_path)))


# -- the probe -----------------------------------------------------------------------------------

TEXT = ProbeItem((1, 2), (3, 4))
IMAGE = ProbeItem((1, 9, 2), (5,), "/images/cat.png")


def test_a_probe_needs_one_log_probability_per_target() -> None:
    with pytest.raises(WeightsError, match="one per target"):
        Probe((TEXT,), ((-1.0,),))
    with pytest.raises(WeightsError, match="at least one"):
        Probe((ProbeItem((1,), ()),), ((),))


@given(st.lists(st.floats(max_value=0, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_probe_survives_its_file_exactly(tmp_path_factory, values: list[float]) -> None:
    item = ProbeItem((1, 2), tuple(range(len(values))))
    probe = Probe((item,), (tuple(values),))
    path = tmp_path_factory.mktemp("probe") / "deep" / "probe.json"
    probe.save(path)
    assert Probe.load(path) == probe
    assert [p.name for p in path.parent.iterdir()] == ["probe.json"]


def test_a_probe_keeps_copies_of_its_pictures_beside_its_file(tmp_path: Path) -> None:
    pictures = [tmp_path / "cat.PNG", tmp_path / "same.png", tmp_path / "dog.png"]
    for picture, content in zip(pictures, (b"cat", b"cat", b"dog"), strict=True):
        picture.write_bytes(content)
    items = (TEXT, *(ProbeItem((9, i), (5,), str(p)) for i, p in enumerate(pictures)))
    probe = Probe(items, ((-1.0, -2.0), (-3.0,), (-4.0,), (-5.0,)))
    probe.save(tmp_path / "run" / "probe.json")
    assert str(tmp_path) not in (tmp_path / "run" / "probe.json").read_text()
    (tmp_path / "run").rename(tmp_path / "moved")
    for picture in pictures:
        picture.unlink()
    loaded = Probe.load(tmp_path / "moved" / "probe.json")
    assert loaded.logprobs == probe.logprobs
    found = [item.image and Path(item.image).read_bytes() for item in loaded.items]
    assert found == [None, b"cat", b"cat", b"dog"]
    loaded.save(tmp_path / "moved" / "probe.json")  # as when it is written again
    assert Probe.load(tmp_path / "moved" / "probe.json") == loaded
    assert len(list((tmp_path / "moved" / "probe_pictures").iterdir())) == 2


def test_a_picture_that_is_gone_before_the_probe_is_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"/images/cat\.png cannot be read"):
        Probe((IMAGE,), ((-3.0,),)).save(tmp_path / "probe.json")


def older_probe(path: Path, *items: ProbeItem) -> None:
    """As earlier versions wrote it: pictures by their absolute paths."""
    rows = [
        {"prompt_ids": i.prompt_ids, "target_ids": i.target_ids, "image": i.image,
         "logprobs": [-1.0] * len(i.target_ids)}
        for i in items
    ]  # fmt: skip
    path.write_text(json.dumps({"items": rows}))


def test_an_older_probe_goes_without_the_pictures_that_are_gone(tmp_path: Path, caplog) -> None:
    (tmp_path / "here.png").touch()
    here = ProbeItem((1, 9, 2), (5,), str(tmp_path / "here.png"))
    older_probe(tmp_path / "probe.json", TEXT, IMAGE, here)
    assert Probe.load(tmp_path / "probe.json") == Probe((TEXT, here), ((-1.0, -1.0), (-1.0,)))
    assert "1 of 3 items left out" in caplog.text and "/images/cat.png" in caplog.text
    older_probe(tmp_path / "probe.json", IMAGE)
    with pytest.raises(WeightsError, match=r"all are gone, the first is /images/cat\.png"):
        Probe.load(tmp_path / "probe.json")


def test_a_probe_is_of_the_weights_that_it_was_written_for(tmp_path: Path) -> None:
    path = tmp_path / "run" / "probe.json"
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        save_file({"a": torch.zeros(2)}, directory / "model.safetensors")
    assert not is_probe_of(path, identify(first), (TEXT,))
    Probe((TEXT,), ((-1.0, -2.0),)).save(path, identify(first))
    assert is_probe_of(path, identify(first), (TEXT,)) and not is_probe_of(
        path, identify(second), (TEXT,)
    )
    assert Probe.load(path).items == (TEXT,)
    assert not is_probe_of(path, identify(first), (ProbeItem((9,), (3, 4)),))  # other items
    save_file({"a": torch.ones(2)}, first / "model.safetensors")  # trained again, in its place
    os.utime(first / "model.safetensors", ns=(1, 1))
    assert not is_probe_of(path, identify(first), (TEXT,))
    for content in ("{", "[]", '{"items": []}'):
        path.write_text(content)
        assert not is_probe_of(path, identify(first), (TEXT,))


def test_a_missing_or_malformed_probe_is_named(tmp_path: Path) -> None:
    path = probe_path(tmp_path, 0)
    assert path == tmp_path / "v0000" / "probe.json"
    with pytest.raises(WeightsError, match="is missing"):
        Probe.load(path)
    path.parent.mkdir()
    path.write_text(json.dumps({"items": [{"prompt_ids": [1]}]}))
    with pytest.raises(WeightsError, match="malformed"):
        Probe.load(path)
