"""Which versions may go, by the rounds that are committed; and what is said of one that went."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from virgo_ray.config import WeightsConfig, load_config
from virgo_ray.errors import ConfigError, DroppedWeightsError, WeightsError
from virgo_ray.evaluate.targets import find_target
from virgo_ray.ledger.file import what_is_left
from virgo_ray.model.dropped import NOTE_NAME, is_dropped, read_note
from virgo_ray.model.files import check_local
from virgo_ray.plan.disk import most_versions
from virgo_ray.records import Failure, Round, Weights
from virgo_ray.train.fit_record import take_up
from virgo_ray.weights import retention
from virgo_ray.weights.manifest import build_manifest, check_weights
from virgo_ray.weights.publish import published
from virgo_ray.weights.retention import Retention, choose_droppable, drop_optimizers

FAILED = (Failure("max_truncated_share", "truncated_share", 1.0, 0.1, 0.1, 0.0, False),)


def rounds(*scores, rejected=(), unevaluated=()):
    """The base, then round 0, 1, ... with version 1, 2, ... and pass@1 `scores`."""
    made = [Round(None, Weights(0, "base"), evaluation=evaluation(0.0))]
    for n, score in enumerate(scores):
        found = None if n in unevaluated else evaluation(score)
        failures = FAILED if n in rejected else ()
        made.append(Round(n, Weights(n + 1, f"v{n + 1}"), evaluation=found, failures=failures))
    return made


def evaluation(score):
    return SimpleNamespace(pass_at_1=score)


def dropped(made, begun=None, **rule):
    return choose_droppable(WeightsConfig(**rule), made, begun)


def test_without_a_rule_nothing_goes():
    assert dropped(rounds(0.1, 0.2, 0.3)) == []


@pytest.mark.parametrize("keep, gone", [(1, [1, 2, 4]), (2, [1, 2]), (3, [1, 2]), (9, [])])
def test_the_newest_and_the_best_stay(keep, gone):
    assert dropped(rounds(0.1, 0.2, 0.9, 0.3, 0.4), keep_last=keep) == gone


def test_of_equally_good_ones_the_newest_stays():
    assert dropped(rounds(0.5, 0.5, 0.5, 0.1), keep_last=1) == [1, 2]


def test_milestones_stay():
    scores = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert dropped(rounds(*scores), keep_last=1, keep_every=3) == [2, 3, 5, 6]


def test_what_was_accepted_last_stays_however_many_are_rejected_after_it():
    made = rounds(0.9, 0.5, 0.1, 0.1, 0.1, rejected=(2, 3, 4))
    assert dropped(made, keep_last=1) == [3, 4]


def test_before_the_newest_is_evaluated_the_one_before_stays_for_it_may_be_rejected():
    assert dropped(rounds(0.9, 0.5, 0.6, unevaluated=(2,)), keep_last=1) == []
    assert dropped(rounds(0.9, 0.5, 0.6), keep_last=1) == [2]


def test_optimizers_stay_where_a_fit_may_start(tmp_path):
    """Round 4 is the newest and not evaluated; 3 is not either; 2 was rejected; 1 is the last that
    was accepted for good. Version 6 is of a fit that is not committed yet."""
    made = rounds(0.9, 0.5, 0.1, 0.6, 0.6, rejected=(2,), unevaluated=(3, 4))
    for version in range(1, 7):
        (tmp_path / f"optimizer/v{version:04d}/fit_a").mkdir(parents=True)
    drop_optimizers(tmp_path, made)
    assert sorted(d.name for d in (tmp_path / "optimizer").iterdir()) == ["v0002", "v0005", "v0006"]


def test_an_exploration_that_has_begun_keeps_its_weights():
    made = rounds(0.9, 0.1, 0.2, 0.3)
    assert dropped(made, keep_last=1) == [2, 3]
    assert dropped(made, begun=Weights(2, "v2"), keep_last=1) == [3]


def test_weights_below_adapters_that_are_gone_on_with_stay():
    made = rounds(0.1, 0.2, 0.3)
    assert dropped(made, keep_last=1) == [1, 2]
    below = {1: 0, 2: 1, 3: 1}  # train.lora was changed, or set, after round 0
    assert choose_droppable(WeightsConfig(keep_last=1), made, None, below) == [2]
    assert choose_droppable(WeightsConfig(keep_last=1), made, None, {2: 1, 3: 0}) == [1, 2]


def test_a_round_that_trained_nothing_has_nothing_to_drop():
    made = [Round(None, Weights(0, "base")), Round(0, Weights(0, "base")), *rounds(0.1, 0.2)[2:]]
    assert dropped(made, keep_last=1) == []


@pytest.mark.parametrize("gates", ["null", "{on_failure: continue}"])
@pytest.mark.parametrize("keep_last, keep_every", [(1, None), (2, 5)])
def test_the_plan_counts_as_many_versions_as_lie_there_at_most(keep_last, keep_every, gates):
    """Over runs that stop anywhere, and whose rejected rounds may be judged again."""
    rule = WeightsConfig(keep_last=keep_last, keep_every=keep_every)
    cfg = load_config("configs/tiny.yaml", ["rounds=13", f"gates={gates}"])
    cfg = cfg.model_copy(update={"weights": rule})
    num_rounds = cfg.rounds + int(cfg.seed_round)
    most = max(most_at_once(seed, rule, num_rounds, gates != "null") for seed in range(400))
    assert most == most_versions(cfg)


def most_at_once(seed, rule, num_rounds, has_gates):
    chance, made, whole, most = random.Random(seed), rounds(), set(), 0

    def apply(begun=None, share=0.3):
        if chance.random() < share:
            whole.difference_update(choose_droppable(rule, made, begun))

    for number in range(num_rounds):
        begun = [r for r in made if not r.is_rejected][-1].weights
        apply(begun)
        if made[-1].is_rejected and chance.random() < 0.5:
            made[-1] = replace(made[-1], failures=())  # while the exploration goes on
        apply(begun)
        whole.add(number + 1)
        most = max(most, len(whole))
        made.append(Round(number, Weights(number + 1, f"v{number + 1}")))
        apply()
        failures = FAILED if has_gates and chance.random() < 0.5 else ()
        scored = evaluation(chance.random())
        made[-1] = replace(made[-1], evaluation=scored, failures=failures)
        apply(share=1.0)
    return most


def test_milestones_without_a_number_to_keep_are_refused():
    with pytest.raises(ValueError, match="keep_every=2 excepts rounds from keep_last"):
        WeightsConfig(keep_every=2)


# -- a directory that lost its tensors -------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path):
    """Versions 1 to 3, of which version 2 is the one to go (version 1 is the best)."""
    for version in (1, 2, 3):
        directory = tmp_path / "weights" / f"v{version:04d}"
        (directory / "probe_pictures").mkdir(parents=True)
        save_file({"a": np.zeros(1000)}, directory / "model.safetensors")
        (directory / "probe_pictures/x.png").write_bytes(b"picture")
        for name in ("config.json", "probe.json", "fit.json", "README.md"):
            (directory / name).write_text("{}")
        (directory / "adapters").mkdir()
        (directory / "adapters/adapters.safetensors").write_bytes(b"m" * 500)
        (directory / "adapters/about.json").write_text('{"version": 0}')
        build_manifest(directory, version).save(directory)
        (directory / "DONE").touch()
        (directory / "notes.bin").write_bytes(b"somebody's own")
    return tmp_path


MADE = rounds(0.9, 0.2, 0.3)


def apply(run_dir):
    return Retention(WeightsConfig(keep_last=1), run_dir / "weights").apply(MADE, None)


def test_tensors_go_and_descriptions_and_what_others_put_there_stay(run_dir):
    gone = run_dir / "weights/v0002"
    size = sum(file.stat().st_size for file in gone.rglob("*.safetensors"))
    assert [(f.version, f.num_bytes) for f in apply(run_dir)] == [(2, size)]
    left = {str(p.relative_to(gone)) for p in gone.rglob("*") if p.is_file()}
    assert left == {
        "config.json", "probe.json", "fit.json", "README.md", "manifest.json", "DONE", NOTE_NAME,
        "probe_pictures/x.png", "notes.bin", "adapters/about.json",
    }  # fmt: skip
    note = read_note(gone)
    assert note is not None and note.num_bytes == size
    assert note.why == "weights.keep_last=1 after round 2"
    assert [is_dropped(run_dir / f"weights/v000{v}") for v in (1, 2, 3)] == [False, True, False]
    assert apply(run_dir) == []  # once is enough


def test_the_directories_say_which_weights_lie_below(run_dir):
    made = rounds(0.1, 0.2, 0.3)
    for version, below in ((2, 1), (3, 1)):
        about = run_dir / f"weights/v000{version}/adapters/about.json"
        about.write_text(json.dumps({"version": below, "fingerprint": "f"}))
    kept = Retention(WeightsConfig(keep_last=1), run_dir / "weights")
    assert [f.version for f in kept.apply(made, None)] == [2]
    (run_dir / "weights/v0003/adapters/about.json").write_text("{")  # nobody can go on with them
    assert [f.version for f in kept.apply(made, None)] == [1]


def test_what_was_seen_as_dropped_is_not_looked_at_again(run_dir, monkeypatch):
    kept = Retention(WeightsConfig(keep_last=1), run_dir / "weights")
    assert [f.version for f in kept.apply(MADE, None)] == [2]
    looked: list[str] = []
    look = retention.read_version_below
    monkeypatch.setattr(retention, "read_version_below", lambda d: looked.append(d.name) or look(d))
    monkeypatch.setattr(retention, "read_note", lambda d: looked.append(d.name))
    assert kept.apply(MADE, None) == [] and sorted(looked) == ["v0001", "v0003"]


def test_everything_that_reads_it_says_that_it_was_dropped(run_dir):
    apply(run_dir)
    gone, root = run_dir / "weights/v0002", run_dir / "weights"
    said = r"v0002 was dropped by weights.keep_last=1 after round 2 .*are kept"
    with pytest.raises(DroppedWeightsError, match=said) as error:
        check_weights(gone)
    assert "finished versions beside it: v0001, v0003" in str(error.value)
    with pytest.raises(DroppedWeightsError, match=said):
        published(root, 2)
    job = SimpleNamespace(version=2, examples="e", recipe="r")
    with pytest.raises(DroppedWeightsError, match=r"move v0002 aside to train it anew"):
        take_up(root, job)
    assert gone.is_dir()  # not moved aside as damaged would be
    for check in (check_local, lambda path: find_target(path)):
        with pytest.raises(ConfigError, match=r"was dropped by weights.keep_last=1"):
            check(str(gone))
    left = what_is_left(run_dir)
    assert "whole weights: v0001, v0003; dropped by weights.keep_last: v0002" in left
    assert "damaged" not in left


@pytest.mark.parametrize("content", ["", "{", json.dumps({"why": 1})])
def test_a_damaged_note_is_still_a_note(run_dir, content):
    apply(run_dir)
    (run_dir / "weights/v0002" / NOTE_NAME).write_text(content)
    said = r"v0002 was dropped \(when and by which rule cannot be read from DROPPED in it\): its "
    with pytest.raises(DroppedWeightsError, match=said):
        check_weights(run_dir / "weights/v0002")
    assert apply(run_dir) == []


def test_a_drop_whose_note_was_damaged_is_finished_by_the_manifest(run_dir):
    gone = run_dir / "weights/v0002"
    (gone / NOTE_NAME).write_text("{")
    size = (gone / "model.safetensors").stat().st_size + 500
    assert [(f.version, f.num_bytes) for f in apply(run_dir)] == [(2, size)]
    assert not list(gone.rglob("*.safetensors")) and (gone / "notes.bin").exists()
    note = read_note(gone)
    assert note is not None and note.is_readable and note.num_bytes == size


def test_a_damaged_or_missing_old_version_is_left_alone_and_stops_nothing(run_dir):
    gone = run_dir / "weights/v0002"
    (gone / "manifest.json").write_text("{")
    assert apply(run_dir) == [] and (gone / "model.safetensors").exists()
    with pytest.raises(WeightsError, match="malformed"):
        check_weights(gone)
    gone.rename(run_dir / "elsewhere")
    assert apply(run_dir) == []
