"""Old versions lose their tensors when a round is complete; nothing that is needed goes, ever."""

from pathlib import Path

import pytest
from flow_fakes import Fuse, Killed, Process, end_state, small_config

from virgo_ray.errors import DroppedWeightsError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.dropped import NOTE_NAME, is_dropped
from virgo_ray.monitor.metrics import Metrics
from virgo_ray.monitor.watch import Monitor
from virgo_ray.run import drop_old_weights
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.retention import Retention

PREVIOUS = ("train.restart_from=previous", "select.last_rounds=1")


def config(folder, *overrides):
    return small_config(folder, "gates=null", "weights.keep_last=1", *overrides)


def versions(cfg):
    return sorted((Path(cfg.run_dir) / "weights").glob("v[0-9]*"))


def dropped(cfg):
    return [d.name for d in versions(cfg) if is_dropped(d)]


def test_only_what_is_needed_keeps_its_tensors(folder):
    cfg = config(folder, "rounds=3")
    process = Process(cfg).run()
    # The fake's pass@1 is the same in several rounds; the newest of the best and the newest stay.
    with_ledger = Ledger.reopen(Path(cfg.run_dir))
    rounds = with_ledger.rounds()
    with_ledger.close()
    best = max(rounds, key=lambda r: (r.measured.pass_at_1, r.weights.version)).weights.version
    kept = {best, 4} - {0}
    assert dropped(cfg) == [f"v{v:04d}" for v in range(1, 5) if v not in kept]
    assert process.dropped == [v for v in range(1, 5) if v not in kept]
    for directory in versions(cfg):
        if is_dropped(directory):
            left = {p.name for p in directory.rglob("*") if p.is_file()}
            assert left == {
                "manifest.json", "plan.json", "fit.json", "DONE", NOTE_NAME, "about.json",
            }  # fmt: skip
            with pytest.raises(DroppedWeightsError, match=r"dropped by weights.keep_last=1 after"):
                check_weights(directory)
        else:
            assert check_weights(directory)


@pytest.mark.parametrize("overrides", [(), PREVIOUS], ids=["base", "previous"])
def test_killed_at_every_step_of_dropping_the_run_ends_the_same(folder, overrides):
    undisturbed = config(folder / "undisturbed", *overrides)
    process = Process(undisturbed).run()
    expected, gone = end_state(undisturbed), dropped(undisturbed)
    steps = process.fuse.steps
    marks = ("the note of", " goes", " went")
    at = {n for n, step in enumerate(steps) if any(mark in step for mark in marks)}
    at |= {n + 1 for n in at if n + 1 < len(steps)}  # and right after them
    assert gone and len(at) > 6
    # The variant shares all but what its fits start from.
    for step in sorted(at)[:: 4 if overrides else 1]:
        cfg = config(folder / str(step), *overrides)
        with pytest.raises(Killed) as killed:
            Process(cfg, Fuse(step)).run()
        again = Process(cfg, order_seed=step).run()
        assert end_state(cfg) == expected, str(killed.value)
        assert dropped(cfg) == gone, str(killed.value)
        assert not {int(name[1:]) for name in gone} & set(again.trainer.trained), str(killed.value)
        for directory in versions(cfg):
            heavy = list(directory.rglob("*.safetensors"))
            assert len(heavy) == (0 if is_dropped(directory) else 2), str(killed.value)


def test_a_run_that_lost_its_ledger_says_what_was_dropped(folder):
    """In the fakes too, whose trainer takes what is published: the push refuses it by name."""
    cfg = config(folder, "rounds=3")
    Process(cfg).run()
    gone = dropped(cfg)
    assert gone
    (Path(cfg.run_dir) / "ledger.json").unlink()
    (Path(cfg.run_dir) / "buffer.lance").rename(folder / "elsewhere")
    with pytest.raises(DroppedWeightsError, match=f"{gone[0]} was dropped by weights.keep_last=1"):
        Process(cfg).run()
    assert dropped(cfg) == gone


def test_a_later_start_drops_by_the_rule_of_now(folder):
    cfg = small_config(folder, "gates=null", "rounds=3")
    Process(cfg).run()
    assert not dropped(cfg)
    again = Process(config(folder, "rounds=3")).run()
    assert again.dropped and dropped(cfg) and not again.trainer.trained
    assert not Process(config(folder, "rounds=3")).run().dropped  # once is enough


class Heard:
    """A screen and a sink of metrics in one."""

    def __init__(self):
        self.said, self.records = [], []

    def update(self, progress, phase_changed): ...

    def say(self, text):
        self.said.append(text)

    def write(self, record):
        self.records.append(record)

    def close(self): ...


def test_a_drop_at_the_start_is_logged_with_the_round_that_it_came_after(folder):
    Process(small_config(folder, "gates=null", "rounds=3")).run()
    cfg, heard = config(folder, "rounds=3"), Heard()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    monitor = Monitor(cfg.name, cfg.rounds, Metrics([heard]), heard)
    drop_old_weights(cfg, ledger, monitor, Retention(cfg.weights, Path(cfg.run_dir) / "weights"))
    ledger.close()
    (record,) = heard.records
    gone = dropped(cfg)
    assert gone and (record["kind"], record["num_dropped"]) == ("weights", len(gone))
    assert record["round"] == 3 and monitor.progress.label == "4"
    assert all(name in heard.said[0] for name in gone)
