"""When a probe is written anew: the trainer's decision, without a model or a group."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from virgo_ray.config import load_config
from virgo_ray.errors import WeightsError
from virgo_ray.records import TEACHER_VERSION, Weights
from virgo_ray.train import engine, zero
from virgo_ray.train.prober import Prober
from virgo_ray.weights.noise import load_noise, save_noise
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.verdict import Noise

ITEM = ProbeItem((1,), (2,))


class Scorer(Prober):
    """Scores without a model."""

    def __init__(self, rank):
        self._rank, self.scored = rank, []

    def ask(self, loaded, items, report):
        return Probe(tuple(items), ((-1.0 * len(self.scored),),) * len(items))


class Engine(engine.TrainEngine):
    """Without a group; it loads nothing, and was asked for no fit."""

    def __init__(self, run, rank=0):
        self._cfg = load_config("configs/tiny.yaml", [f"run_dir={run}"])
        self._rank, self._weights_root, self._prober = rank, run / "weights", Scorer(rank)
        self._loader = SimpleNamespace(loaded=self._note)

    def settle(self):
        """There was no fit."""

    @property
    def scored(self):
        """The directories that were loaded."""
        return self._prober.scored

    def _note(self, weights, is_training, report):
        self.scored.append(Path(weights.path).name)
        return nullcontext(None)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(zero, "broadcast_from_first", lambda value: value)
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file({"w": torch.zeros(2)}, tmp_path / name / "model.safetensors")
    return lambda name, version: Weights(version, str(tmp_path / name))


def test_another_teacher_is_probed_anew_and_the_same_one_is_not(tmp_path, models):
    trainer = Engine(tmp_path / "run")
    for name in "aabba":
        path = trainer.probe_base(models(name, TEACHER_VERSION), [ITEM])
    assert trainer.scored == ["a", "b", "a"]
    assert Probe.load(path).logprobs == ((-3.0,),)


def test_a_teacher_leaves_the_noise_of_version_0(tmp_path, models):
    trainer, root = Engine(tmp_path / "run"), tmp_path / "run" / "weights"
    trainer.probe_base(models("a", 0), [ITEM])
    save_noise(root, {"text": Noise(0.1, 0.2)}, "cpu")
    trainer.probe_base(models("b", TEACHER_VERSION), [ITEM])
    assert load_noise(root, "cpu")


def test_the_base_is_probed_once_whatever_lies_there_later(tmp_path, models):
    """A run's base never changes: one that did must not prove itself."""
    trainer = Engine(tmp_path / "run")
    for name in "aab":
        trainer.probe_base(models(name, 0), [ITEM])
    assert trainer.scored == ["a"]


def test_a_probe_of_other_items_is_written_anew_if_the_base_still_is_the_same(tmp_path, models):
    """As in a run that an earlier version began."""
    trainer, other = Engine(tmp_path / "run"), ProbeItem((7,), (8,))
    path = Path(trainer.probe_base(models("a", 0), [ITEM]))
    save_noise(tmp_path / "run" / "weights", {"text": Noise(0.1, 0.2)}, "cpu")
    trainer.scored.clear()  # the same values as before
    trainer.probe_base(models("a", 0), [other])
    assert Probe.load(path).items == (other,) and not load_noise(
        tmp_path / "run" / "weights", "cpu"
    )
    with pytest.raises(WeightsError, match=r"is not the base that .* was written for: text: RMS"):
        trainer.probe_base(models("b", 0), [ITEM])


def test_all_ranks_follow_the_first_and_only_it_writes(tmp_path, models, monkeypatch):
    first, second = Engine(tmp_path / "run"), Engine(tmp_path / "run", rank=1)
    decided = []
    monkeypatch.setattr(zero, "broadcast_from_first", lambda v: decided.append(v) or v)
    path = Path(first.probe_base(models("a", TEACHER_VERSION), [ITEM]))
    written = path.read_text()
    # The second rank comes later, sees the finished probe, and must still take part.
    monkeypatch.setattr(zero, "broadcast_from_first", lambda _: decided[0])
    second.probe_base(models("b", TEACHER_VERSION), [ITEM])
    assert first.scored == ["a"] and second.scored == ["b"] and path.read_text() == written
