"""Versions that are not written: nothing tells but the disk, whenever the run is killed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from flow_fakes import (
    HELDOUT,
    FakeRollouts,
    Fuse,
    Killed,
    Process,
    end_state,
    small_config,
)
from test_gated_runs import process as gated_process

from virgo_ray.errors import (
    ConfigError,
    DroppedWeightsError,
    LedgerError,
    NoProgressError,
    WeightsError,
)
from virgo_ray.evaluate.targets import find_target
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.dropped import is_dropped, read_note, say_dropped
from virgo_ray.traces.regrade import refuse_unwritten
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.publish import version_dir

PREVIOUS = ("train.restart_from=previous", "train.resident=true", "select.last_rounds=1")
ENDS = ("rounds=4", "gates=null")


def config(folder, *overrides, every=3):
    return small_config(folder, f"weights.publish_every={every}", *overrides)


def versions(cfg):
    return sorted((Path(cfg.run_dir) / "weights").glob("v[0-9]*"))


def unwritten(cfg):
    return [int(d.name[1:]) for d in versions(cfg) if is_dropped(d)]


def checksums(cfg):
    """Of all files of all versions, by the manifests, which the fakes write without times."""
    return {d.name: json.loads((d / "manifest.json").read_text())["files"] for d in versions(cfg)}


@pytest.mark.parametrize("overrides", [(), PREVIOUS], ids=["base", "previous"])
def test_a_run_ends_the_same_and_writes_less(folder, overrides):
    whole = small_config(folder / "whole", *ENDS, *overrides)
    Process(whole).run()
    cfg = config(folder / "sparse", *ENDS, *overrides)
    done = Process(cfg).run()
    assert end_state(cfg) == end_state(whole) and checksums(cfg) == checksums(whole)
    assert unwritten(cfg) == [2, 3] and not unwritten(whole)
    assert done.trainer.trained == [1, 2, 3, 4, 5] and not done.trainer.again
    for directory in versions(cfg):
        assert len(list(directory.rglob("*.safetensors"))) == (0 if is_dropped(directory) else 2)


@pytest.mark.parametrize("overrides", [(), PREVIOUS], ids=["base", "previous"])
def test_killed_at_any_step_the_lost_fits_are_done_again_and_nothing_else(folder, overrides):
    undisturbed = config(folder / "undisturbed", *ENDS, *overrides)
    steps = Process(undisturbed).run().fuse.steps
    expected, sums = end_state(undisturbed), checksums(undisturbed)
    marks = [n for n, step in enumerate(steps) if "push of" in step or "fit of" in step]
    at = [n for n in marks if n > steps.index("after fit of 2")][:: 4 if overrides else 6]
    numbers = set()
    for step in at:
        cfg = config(folder / str(step), *ENDS, *overrides)
        with pytest.raises(Killed) as killed:
            Process(cfg, Fuse(step)).run()
        lost = set(unwritten(cfg))
        again = Process(cfg, order_seed=step).run()
        assert end_state(cfg) == expected and checksums(cfg) == sums, str(killed.value)
        assert set(again.trainer.again) <= lost, str(killed.value)
        numbers.add(len(again.trainer.again))
    assert numbers >= ({0, 2} if overrides else {0, 1})


def test_killed_while_tensors_are_put_back_it_puts_them_back_again(folder, monkeypatch):
    cfg = config(folder, *ENDS, *PREVIOUS)
    steps = Process(config(folder / "a", *ENDS, *PREVIOUS)).run().fuse.steps
    with pytest.raises(Killed):
        Process(cfg, Fuse(steps.index("after publication of 3") + 1)).run()
    for num_done in (1, 3):
        left = [num_done]

        def put(file, place, left=left):
            if not left[0]:
                raise Killed("while files are put back")
            left[0] -= 1
            file.replace(place)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("virgo_ray.weights.remade._put", put)
            Process(cfg).run()
        assert 3 in unwritten(cfg)
        with pytest.raises(DroppedWeightsError, match=r"published without its tensors"):
            check_weights(versions(cfg)[2])
    Process(cfg).run()
    assert end_state(cfg) == end_state(config(folder / "a", *ENDS, *PREVIOUS))


GATED = ("gates={on_failure: continue}", "rounds=3", *PREVIOUS)


@pytest.mark.parametrize(
    "bad, again", [([3], [2]), ([4], [2, 3]), ([3, 4], [2])], ids=["middle", "last", "both"]
)
def test_after_a_rejection_the_last_accepted_weights_are_there(folder, bad, again):
    """The trainer holds the rejected ones by then; the newest round's alone would not do."""
    cfg = config(folder, *GATED, every=4)
    done = gated_process(cfg, bad).run()
    assert sorted(set(done.trainer.again)) == again
    ledger = Ledger.reopen(Path(cfg.run_dir))
    ledger.close()
    assert check_weights(ledger.weights.path)


def test_a_killed_run_writes_the_kept_weights_before_it_says_that_it_is_over(folder):
    cfg = config(folder, *GATED, every=4)
    steps = gated_process(config(folder / "a", *GATED, every=4), [4]).run().fuse.steps
    last = max(n for n, step in enumerate(steps) if step == "before fit of 2")
    with pytest.raises(Killed):
        gated_process(cfg, [4], Fuse(last)).run()
    assert 3 in unwritten(cfg)
    again = gated_process(cfg, [4]).run()
    assert again.trainer.again == [2, 3] and not again.trainer.trained and not again.labels
    assert not gated_process(cfg, [4]).run().trainer.again


def test_keep_last_keeps_what_unwritten_weights_are_made_again_from(folder):
    rule = ("gates=null", "rounds=7", "weights.keep_last=1", *PREVIOUS)
    cfg, undisturbed = config(folder, *rule, every=3), config(folder / "a", *rule, every=3)
    steps = Process(undisturbed).run().fuse.steps
    with pytest.raises(Killed):  # versions 5 and 6 are not written, 4 is; it is not the best
        Process(cfg, Fuse(steps.index("after publication of 6"))).run()
    assert {5, 6} <= set(unwritten(cfg)) and 4 not in unwritten(cfg)
    again = Process(cfg).run()
    assert again.trainer.again == [5, 6] and end_state(cfg) == end_state(undisturbed)


def test_verdicts_are_not_changed_below_weights_that_are_not_written(folder):
    cfg = config(folder, *ENDS, *PREVIOUS)
    steps = Process(config(folder / "a", *ENDS, *PREVIOUS)).run().fuse.steps
    with pytest.raises(Killed):
        Process(cfg, Fuse(steps.index("after commit", steps.index("after publication of 3")))).run()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    ledger.close()
    with pytest.raises(LedgerError, match="v0002, v0003 have no tensors yet"):
        refuse_unwritten(ledger)
    with pytest.raises(Killed):  # what is served first is written by then
        Process(cfg, Fuse(12)).run()
    assert 3 not in unwritten(cfg)
    refuse_unwritten(ledger)


def test_what_asks_for_unwritten_weights_is_told_so(folder):
    cfg = config(folder, *ENDS, *PREVIOUS)
    Process(cfg).run()
    directory = versions(cfg)[1]
    assert read_note(directory).is_remade
    assert "weights.publish_every" in say_dropped(directory)
    with pytest.raises(ConfigError, match="published without its tensors"):
        find_target(str(directory), config=str(Path(cfg.run_dir) / "config.yaml"))
    with pytest.raises(WeightsError, match="published without its tensors"):
        check_weights(directory)


@pytest.mark.parametrize("phase", ["explore", "evaluate"])
def test_a_worker_that_needs_them_amid_sampling_has_them_trained_again(folder, monkeypatch, phase):
    """Who held them died meanwhile, and so did the worker that asks."""
    expected = config(folder / "a", *ENDS, *PREVIOUS)
    Process(expected).run()
    sample, lost = FakeRollouts.sample, []

    def losing(self, requests, sampling):
        for n, rollout in enumerate(sample(self, requests, sampling)):
            is_evaluation = rollout is not None and rollout.problem in HELDOUT
            is_it = self.version == 3 and n == 1 and is_evaluation == (phase == "evaluate")
            if is_it and not lost:
                self.trainer.held, self.trainer.tensors = None, None
                lost.append(n)
            if lost and is_dropped(version_dir(self.trainer.root, self.version)):
                raise DroppedWeightsError("v0003 has no tensors")
            yield rollout

    monkeypatch.setattr(FakeRollouts, "sample", losing)
    cfg = config(folder, *ENDS, *PREVIOUS)
    done = Process(cfg).run()
    assert lost and done.trainer.again == [2, 3]
    assert end_state(cfg) == end_state(expected)


def test_a_run_that_gets_nowhere_writes_the_weights_that_it_kept(folder, monkeypatch):
    rollout = FakeRollouts.rollout

    def wrong(self, request, sampling):
        made = rollout(self, request, sampling)
        return replace(made, text="wrong 0") if self.version >= 2 else made

    monkeypatch.setattr(FakeRollouts, "rollout", wrong)
    cfg = config(folder, "rounds=4", "gates=null", "explore.max_barren_rounds=1", every=4)
    with pytest.raises(NoProgressError):
        Process(cfg).run()
    assert [d.name for d in versions(cfg)] == ["v0001", "v0002"] and not unwritten(cfg)
