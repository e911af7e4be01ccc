"""Trackers beside W&B: TensorBoard read back for real, and what is said of those that are missing
or fail."""

import importlib.util
from types import SimpleNamespace

import pytest

from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError
from virgo_ray.monitor import trackers
from virgo_ray.monitor.metrics import Before
from virgo_ray.monitor.trackers import check_trackers, open_trackers


def config(run_dir, names="[tensorboard]"):
    return load_config("configs/tiny.yaml", [f"run_dir={run_dir}", f"trackers={names}"])


def test_tensorboard_has_every_number_on_its_own_steps_over_two_starts(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, before in ((1, Before()), (2, Before(1, 100.0, 1))):
        (sink,) = open_trackers(config(tmp_path), "tiny-1", pytest.fail, before)
        sink.write({"kind": "train", "time": 100.0, "train_step": step, "train/loss": 1.0 / step})
        sink.write({"kind": "round", "time": 110.0, "round": None, "heldout/pass_at_1": 0.25})
        sink.write({"kind": "push", "time": 160.0, "round": 1, "transport": "disk"})
        sink.write({"kind": "memory", "time": 160.0, "round": 1, "rss_driver_mib": 3.0})
        sink.close()
    found = EventAccumulator(str(tmp_path / "tensorboard" / "tiny")).Reload()
    assert set(found.Tags()["scalars"]) == {
        "train/loss", "heldout/pass_at_1", "memory/rss_driver_mib",
    }  # fmt: skip
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert {e.step for e in found.Scalars("heldout/pass_at_1")} == {-1}  # the base: not round 0
    assert {e.step for e in found.Scalars("memory/rss_driver_mib")} == {60}


def test_a_tracker_without_its_package_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="`pip install mlflow`"):
        check_trackers(("mlflow",))
    check_trackers(())


def test_a_tracker_that_fails_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    class Broken:
        def start(self): ...

        def log(self, values, step):
            raise OSError("no room")

        def finish(self):
            pytest.fail("it is off")

    monkeypatch.setitem(trackers.OPEN, "tensorboard", lambda cfg, run_id, say: Broken())
    said = []
    (sink,) = open_trackers(config(tmp_path), "tiny-1", said.append, Before())
    for step in (1, 2):
        sink.write({"kind": "train", "train_step": step, "train/loss": 1.0})
    sink.close()
    assert len(said) == 1 and "tensorboard is off until the next start: no room" in said[0]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is optional")
def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (1, 2):
        (sink,) = open_trackers(config(tmp_path, "[mlflow]"), "tiny-1", pytest.fail, Before())
        sink.write({"kind": "train", "train_step": step, "train/loss": 1.0 / step})
        sink.close()
    run_id = (tmp_path / trackers.MLFLOW_RUN).read_text()
    history = mlflow.MlflowClient().get_metric_history(run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 1.0), (2, 0.5)]


def test_a_run_is_given_the_trackers_of_its_config(tmp_path):
    from virgo_ray.monitor.metrics import JsonlSink
    from virgo_ray.run import open_sinks

    cfg = load_config(
        "configs/tiny.yaml",
        [f"run_dir={tmp_path}", "trackers=[tensorboard]", "wandb.mode=disabled"],
    )
    screen, ledger = SimpleNamespace(say=pytest.fail), SimpleNamespace(wandb_id="tiny-1")
    sinks = [*open_sinks(cfg, ledger, screen, JsonlSink(tmp_path / "metrics.jsonl"))]
    assert isinstance(sinks[-1], trackers.TrackerSink)
    sinks[-1].close()
