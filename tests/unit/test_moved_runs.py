"""A run whose directory was moved: its weights are still proven, pictures included."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from stub_ray import Ref, StubRay

from virgo_ray.actors.rollouts import pool, slot, workers
from virgo_ray.config import load_config
from virgo_ray.records import Weights
from virgo_ray.weights.manifest import loaded_files
from virgo_ray.weights.probe import PROBE_NAME, Probe, ProbeItem, probe_path
from virgo_ray.weights.publish import publish
from virgo_ray.weights.verdict import Evidence


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def made_probe(run):
    """A drawing of the run, and a picture of its data."""
    items = [ProbeItem((1,), (2,))]
    for name in ("probe/picture.png", "data/bars.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red" if "data" in name else "blue").save(run / name)
        items.append(ProbeItem((1, 9), (2,), str(run / name)))
    return Probe(tuple(items), ((-1.0,),) * 3)


@pytest.mark.parametrize("version", [0, 1])
def test_weights_of_a_run_that_was_moved_are_proven_with_pictures(tmp_path, monkeypatch, version):
    old, new = tmp_path / "old", tmp_path / "new" / "place"

    def write(directory):
        save_file({"a": np.zeros(2)}, directory / "model.safetensors")
        made_probe(old).save(directory / PROBE_NAME)

    if version == 0:
        made_probe(old).save(probe_path(old / "weights", 0))
    else:
        publish(old / "weights", 1, write)
    new.parent.mkdir()
    old.rename(new)
    asked = []

    def answer(actor, method, *args):
        if method == "where":
            return Ref(("node", 1))
        if method == "load":
            for item in args[1]:
                asked.append(item.image and os.stat(item.image).st_size)
            read = {f.name: sha256(f) for f in loaded_files(Path(args[0].path))}
            return Ref(Evidence([[-1.25]] * len(args[1]), read, [-1.25] * len(args[2])))
        return Ref(1.0)

    ray = StubRay(answer)
    for module in (pool, slot, workers):
        monkeypatch.setattr(module, "ray", ray, raising=False)
    monkeypatch.setattr(slot, "family", lambda node, pid: [])
    cfg = load_config("configs/tiny.yaml", [f"run_dir={new}", "push.max_logprob_diff=0.8"])
    rollouts = pool.RolloutPool(cfg)
    weights = Weights(version, str(new / f"weights/v{version:04d}"))
    report = rollouts.push(weights)
    rollouts.close()
    assert (report.max_diff_text, report.max_diff_image) == (0.25, 0.25)
    assert len(asked) == 3 * cfg.rollout.num_workers and asked.count(None) == len(asked) / 3
