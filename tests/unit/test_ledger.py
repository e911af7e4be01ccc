import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from round_parts import evaluation
from safetensors.numpy import save_file

from virgo_ray.config import ExtraConfig, Moment, SamplingConfig, load_config, moment_of
from virgo_ray.errors import LedgerError
from virgo_ray.ledger import lock
from virgo_ray.ledger.changes import CHOOSING, choosing_config, find_changes
from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.ledger.lock import OWNER_NAME
from virgo_ray.records import Example, Failure, FitReport, Tally, Weights
from virgo_ray.selection.training_set import add_seeds, choose_traces
from virgo_ray.weights.publish import publish

BASE = Weights(0, "/models/base")
FAILURE = Failure("max_text_fall", "text_pass_at_1", 0.1, 0.7, 0.05, 0.08, True, 0.9, "base")


def config(tmp_path, *overrides):
    return load_config("configs/tiny.yaml", [f"run_dir={tmp_path}/run", *overrides])


def fit(version):
    return FitReport(Weights(version, f"/w/{version}"), 10, 100, 1000, 600, 2.0, 1.0, 3.0)


def test_a_new_ledger_starts_at_the_base_and_round_0(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    assert (ledger.next_round, ledger.weights, ledger.newest.label) == (0, BASE, "base")
    assert not ledger.has_tally(0)


def test_commits_survive_reopening(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally(asked=5))
    ledger.commit_fit(0, fit(1))
    ledger.commit_evaluation(None, evaluation(pass_at_1=0.25))
    ledger.close()
    again = Ledger.open(config(tmp_path), BASE)
    assert again.next_round == 1
    assert again.weights == Weights(1, "/w/1")
    assert again.has_tally(0) and again.has_evaluation(None)
    assert not again.has_evaluation(0)
    assert again.committed_buffer_version == 3
    assert [r.label for r in again.rounds()] == ["base", 0]


def test_committing_a_half_again_changes_nothing(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_fit(0, fit(1))
    files = [tmp_path / "run" / name for name in ("ledger.json", "ledger.journal")]
    before = [file.read_text() for file in files]
    ledger.commit_fit(0, fit(9))
    assert [file.read_text() for file in files] == before


def test_a_run_is_complete_when_every_round_is_trained_and_evaluated(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_fit(0, fit(1))
    ledger.commit_evaluation(None, evaluation())
    assert not ledger.is_complete(0)
    ledger.commit_evaluation(0, evaluation())
    assert ledger.is_complete(0) and not ledger.is_complete(1)


def test_a_changed_config_is_refused_with_the_changed_keys(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    with pytest.raises(LedgerError, match=r"make another run:\n  seed: 0 -> 1\n"):
        Ledger.open(config(tmp_path, "seed=1", "train.lr=0.1"), BASE)
    assert load_config(f"{tmp_path}/run/config.yaml").train.lr == 0.0005


def test_a_harmless_change_is_accepted_and_recorded(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    Ledger.open(config(tmp_path, "rollout.num_workers=1"), BASE).close()
    assert "changes" not in json.loads((tmp_path / "run/ledger.json").read_text())
    assert load_config(f"{tmp_path}/run/config.yaml").rollout.num_workers == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}', "null"])
def test_a_damaged_ledger_is_an_error_and_stays_as_it_is(tmp_path, text):
    Ledger.open(config(tmp_path), BASE).close()
    path = tmp_path / "run/ledger.json"
    path.write_text(text)
    with pytest.raises(LedgerError, match=r"ledger\.json"):
        Ledger.open(config(tmp_path), BASE)
    assert path.read_text() == text


def test_a_directory_in_use_is_refused_and_free_again_after_a_kill(tmp_path):
    code = (
        "import sys, time\n"
        "from virgo_ray.config import load_config\n"
        "from virgo_ray.ledger.ledger import Ledger\n"
        "from virgo_ray.records import Weights\n"
        f"cfg = load_config('configs/tiny.yaml', ['run_dir={tmp_path}/run'])\n"
        "ledger = Ledger.open(cfg, Weights(0, 'x'))\n"
        "print('open', flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(LedgerError, match=f"in use by process {holder.pid}"):
        Ledger.open(config(tmp_path), BASE)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(10)
    Ledger.open(config(tmp_path), BASE).close()


def test_an_unwritable_directory_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}/file/run"])
    with pytest.raises(LedgerError, match="cannot be written"):
        Ledger.open(cfg, BASE)


def test_the_ledger_on_disk_is_plain_json(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    assert json.loads((tmp_path / "run/ledger.json").read_text())["schema"] == 2


def test_a_run_made_before_a_key_existed_goes_on_with_its_default(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    path = tmp_path / "run/config.yaml"
    old = yaml.safe_load(path.read_text())
    del old["verify"]["formats"], old["select"]["drop_doubted"]
    path.write_text(yaml.safe_dump(old))
    state = json.loads((tmp_path / "run/ledger.json").read_text())
    (tmp_path / "run/ledger.json").write_text(json.dumps({**state, "fingerprint": "of then"}))
    Ledger.open(config(tmp_path), BASE).close()
    ledger = Ledger.open(config(tmp_path, "select.drop_doubted=false"), BASE)
    assert [change["key"] for change in ledger.changes] == ["select.drop_doubted"]


# -- damage ----------------------------------------------------------------------------------------


def trained(tmp_path):
    """A run with rounds 0 and 1, and whole weights of round 0."""
    ledger = Ledger.open(config(tmp_path), BASE)
    for t in (0, 1):
        ledger.commit_tally(t, 3 + t, Tally(asked=5))
        ledger.commit_fit(t, fit(t + 1))
    ledger.close()
    (tmp_path / "run/buffer.lance").mkdir()
    published(tmp_path / "run")
    (tmp_path / "run/weights/v0002").mkdir()
    return tmp_path / "run/ledger.json"


BEGUN = {
    "round": 2, "asked": ["p"], "weights_version": 1, "num_samples": 2,
    "sampling": {"max_tokens": 9}, "extra": {}, "has_blank_probe": False,
}  # fmt: skip
DAMAGE = {
    "cut off": (lambda s: None, "no complete JSON"),
    "no weights": (
        lambda s: s["rounds"]["1"]["trained"].pop("weights"), r"rounds\.1\.trained\.weights"
    ),
    "a word for a number": (
        lambda s: s["rounds"]["0"]["explored"].update(buffer_version="three"),
        r"rounds\.0\.explored\.buffer_version",
    ),
    "a round is gone": (lambda s: s["rounds"].pop("0"), "expected 0 to 0 without a gap"),
    "never trained": (lambda s: s["rounds"]["0"].pop("trained"), "rounds.0 was never trained"),
    "never explored": (lambda s: s["rounds"]["1"].pop("explored"), "rounds.1 was never explored"),
    "rounds is a list": (lambda s: s.update(rounds=[]), "rounds: Input should be"),
    "a failure is cut": (
        lambda s: s.update(rejected={"1": [{"gate": "max_text_fall"}]}), r"rejected\.1\.0\.figure"
    ),
    "a failure has an unknown field": (
        lambda s: s.update(rejected={"1": [{**asdict(FAILURE), "because": "?"}]}),
        r"rejected\.1\.0\.because",
    ),
    "a count is a word": (
        lambda s: s["rounds"]["0"]["explored"].update(asked="x"), r"rounds\.0\.explored\.asked"
    ),
    "begun with unknown weights": (
        lambda s: s.update(begun={**BEGUN, "weights_version": 9}), r"begun\.weights_version"
    ),
    "begun without its problems": (
        lambda s: s.update(begun={k: v for k, v in BEGUN.items() if k != "asked"}),
        r"begun\.asked",
    ),
    "a fit without a count": (
        lambda s: s["rounds"]["0"]["trained"].update(num_target_tokens=None),
        r"rounds\.0\.trained\.num_target_tokens",
    ),
    "no schema": (lambda s: s.pop("schema"), "without a schema number"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("opened", ["open", "reopen"])
def test_damage_is_named_with_its_place_and_what_can_still_be_used(tmp_path, name, opened):
    path = trained(tmp_path)
    spoil, expected = DAMAGE[name]
    state = json.loads(path.read_text())
    spoil(state)
    text = json.dumps(state) if name != "cut off" else path.read_text()[:200]
    path.write_text(text)
    cfg = config(tmp_path)
    with pytest.raises(LedgerError, match=expected) as caught:
        Ledger.open(cfg, BASE) if opened == "open" else Ledger.reopen(path.parent)
    said = str(caught.value)
    assert "whole weights: v0001; damaged weights: v0002" in said and "traces stats" in said
    assert path.read_text() == text and (path.parent / "weights/v0002").is_dir()


def test_a_ledger_that_cannot_be_written_keeps_what_was_committed(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally(asked=5))
    (tmp_path / "run").rename(tmp_path / "lost")  # a network file system that went away
    with pytest.raises(LedgerError, match="what was committed before is intact"):
        ledger.commit_fit(0, fit(1))
    (tmp_path / "lost").rename(tmp_path / "run")
    ledger.close()
    again = Ledger.open(config(tmp_path), BASE)
    assert again.has_tally(0) and again.next_round == 0


def test_a_ledger_without_regrades_is_read_and_one_with_them_relies_on_the_newest(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally())
    assert ledger.regrades == [] and ledger.buffer_versions == [3]
    ledger.commit_regraded(4, 6, {"changed": 1})
    ledger.close()
    again = Ledger.reopen(tmp_path / "run")
    assert again.committed_buffer_version == 6 and again.buffer_versions == [3, 4, 6]
    with pytest.raises(LedgerError, match="does not exist"):
        Ledger.reopen(tmp_path)


# -- gates -----------------------------------------------------------------------------------------


def test_a_rejected_round_is_told_with_its_evaluation_and_its_weights_are_not_taken(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_evaluation(None, evaluation(pass_at_1=0.1))
    assert "rejected" not in json.loads((tmp_path / "run/ledger.json").read_text())
    for t in (0, 1):
        ledger.commit_tally(t, 3 + t, Tally())
        ledger.commit_fit(t, fit(t + 1))
        assert ledger.weights.version == t + 1  # not evaluated yet
        ledger.commit_evaluation(t, evaluation(pass_at_1=0.5), [FAILURE] if t else [])
    ledger.close()
    again = Ledger.reopen(tmp_path / "run")
    assert again.weights.version == 1 and again.newest.weights.version == 2
    assert again.round(1).failures == (FAILURE,) and again.round(0).failures == ()
    assert [r.label for r in again.references] == ["base", 0]
    assert again.next_round == 2 and again.is_complete(1)


def test_a_decision_is_committed_once_and_can_only_be_taken_again_on_purpose(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally())
    ledger.commit_fit(0, fit(1))
    ledger.commit_evaluation(0, evaluation(pass_at_1=0.5), [FAILURE])
    ledger.commit_evaluation(0, evaluation(pass_at_1=0.9))
    assert ledger.round(0).failures == (FAILURE,)
    assert ledger.round(0).measured == evaluation(pass_at_1=0.5)
    ledger.commit_failures(0, [])
    assert not ledger.round(0).is_rejected and ledger.weights.version == 1


def test_drafts_of_a_killed_write_go(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    drafts = [tmp_path / f"run/.{name}.tmp-0a" for name in ("ledger.json", "config.yaml")]
    for draft in drafts:
        draft.write_text("{")
    Ledger.open(config(tmp_path), BASE).close()
    assert not any(draft.exists() for draft in drafts)


# -- keys that hold later --------------------------------------------------------------------------


def test_the_longest_length_can_be_raised_and_not_lowered(tmp_path):
    """What is stored may be as long as it was."""
    Ledger.open(config(tmp_path, "model.max_length=300"), BASE).close()
    with pytest.raises(LedgerError, match=r"model\.max_length: 300 -> 299"):
        Ledger.check(config(tmp_path, "model.max_length=299"))
    Ledger.check(config(tmp_path, "model.max_length=301"))


def test_a_change_that_holds_later_is_recorded_with_its_round(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally())
    ledger.commit_fit(0, fit(1))
    ledger.commit_tally(1, 4, Tally())
    ledger.close()
    changed = ("train.lr=0.1", "verify.deadline_s=9", "explore.num_samples=5", "train.zero_stage=3")
    Ledger.check(config(tmp_path, *changed))
    ledger = Ledger.open(config(tmp_path, *changed), BASE)
    assert ledger.news == [
        "changed: explore.num_samples: 3 -> 5, from the next exploration on (round 2)",
        "changed: train.lr: 0.0005 -> 0.1, from the next fit on (round 1)",
        "changed: verify.deadline_s: 5.0 -> 9.0, from the next rollout on (round 2)",
    ]
    ledger.close()
    again = Ledger.open(config(tmp_path, *changed), BASE)
    assert again.news == [] and len(again.changes) == 3
    again.close()
    back = Ledger.open(config(tmp_path), BASE)
    assert [(c["key"], c["after"]) for c in back.changes[3:]] == [
        ("explore.num_samples", 3), ("train.lr", 0.0005), ("verify.deadline_s", 5.0),
    ]  # fmt: skip


def test_the_values_that_chose_in_an_earlier_round_are_found_again(tmp_path):
    begun = ("select.max_per_problem=2", "train.seed_share=[0.5,0.2]")
    ledger = Ledger.open(config(tmp_path, *begun), BASE)
    changed = (
        ("select.max_per_problem=3", "train.batch_size=96", "train.seed_share=0.1"),
        ("select.max_per_problem=4", "select.last_rounds=2", "explore.extra.max_samples=4"),
        ("select.max_per_problem=5", "train.num_workers=5", "train.batch_size=5"),
    )
    configs = [config(tmp_path, *begun)]
    for t, overrides in enumerate(changed):
        ledger.commit_tally(t, t, Tally())
        ledger.commit_fit(t, fit(t + 1))
        ledger.close()
        configs.append(config(tmp_path, *overrides))
        ledger = Ledger.open(configs[-1], BASE)
    for t, then in enumerate(configs):
        found = choosing_config(configs[-1], ledger.changes, t)
        assert found.select == then.select
        assert found.train.seed_share == then.train.seed_share
        assert found.explore.extra == then.explore.extra
        assert found.train.batch_size == 5
    assert choosing_config(configs[-1], ledger.changes, 3) is configs[-1]


def test_a_recorded_number_of_extra_rollouts_is_read_as_its_share(tmp_path):
    shared = ("explore.num_problems=400", "explore.extra.budget_share=0.5")
    ledger = Ledger.open(config(tmp_path, *shared), BASE)
    old = {"key": "explore.extra.budget", "before": 800, "after": 200, "holds": "", "round": 1}
    state = {"changes": [old], "fingerprint": "another", "rounds": {}}
    assert find_changes(config(tmp_path, *shared), state, tmp_path / "run") == []
    found = [choosing_config(config(tmp_path, *shared), [old], t) for t in (0, 1)]
    assert [cfg.explore.extra.budget_share for cfg in found] == [2.0, 0.5]
    ledger.close()


@pytest.mark.parametrize(("budget", "share"), [(6, 1.5), (0, 0.0), (None, None)])
def test_a_begun_number_of_extra_rollouts_is_read_as_its_share(budget, share):
    extra = ExtraConfig(max_samples=2)
    begun = Exploration(("a", "b", "c", "d"), BASE, 3, SamplingConfig(max_tokens=9), extra, False)
    entry = begun.as_entry(1)
    assert Exploration.of(entry, {0: BASE}) == begun
    del entry["extra"]["budget_share"]
    entry["extra"]["budget"] = budget
    assert Exploration.of(entry, {0: BASE}).extra.budget_share == share


class Spy:
    """Notes the dotted keys of a config that are read."""

    def __init__(self, value, read, prefix=""):
        self._value, self._read, self._prefix = value, read, prefix

    def __getattr__(self, name):
        value, key = getattr(self._value, name), f"{self._prefix}{name}"
        if isinstance(value, BaseModel) and key not in CHOOSING:
            return Spy(value, self._read, f"{key}.")
        self._read.add(key)
        return value


def test_every_key_that_a_choice_reads_is_found_again():
    class Store:
        def candidates(self, rounds, formats, with_words):
            return []

        def taken_rounds(self):
            return []

    read = set()
    spy = Spy(load_config("configs/tiny.yaml"), read)
    choose_traces(spy, 2, Store())
    add_seeds(spy, 2, [], [Example("1/a/0", (1,), (2,), is_trace=True)])
    assert not spy.train.objective.is_reinforcement
    assert read >= set(CHOOSING)
    assert all(moment_of(key) is Moment.NEVER for key in read - set(CHOOSING))


def test_a_change_is_recorded_before_the_config_is_stored(tmp_path, monkeypatch):
    Ledger.open(config(tmp_path), BASE).close()
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Ledger, "_write_config", interrupt)
        Ledger.open(config(tmp_path, "train.lr=0.1"), BASE)
    ledger = Ledger.open(config(tmp_path, "train.lr=0.2"), BASE)
    assert [(c["before"], c["after"]) for c in ledger.changes] == [(0.0005, 0.1), (0.1, 0.2)]


def interrupt(*arguments):
    raise KeyboardInterrupt


# -- moved and copied ------------------------------------------------------------------------------


def published(run):
    """Whole weights of round 0."""
    return publish(run / "weights", 1, lambda d: save_file({"a": np.zeros(2)}, d / "m.safetensors"))


@pytest.mark.parametrize("is_old", [False, True])
def test_a_run_directory_may_be_moved_or_copied(tmp_path, is_old):
    run, moved = tmp_path / "run", tmp_path / "elsewhere/run"
    ledger = Ledger.open(config(tmp_path), BASE)
    ledger.commit_tally(0, 3, Tally())
    weights = published(run)
    ledger.commit_fit(0, replace(fit(1), weights=weights))
    assert ledger.weights == weights
    ledger.close()
    state = json.loads((run / "ledger.json").read_text())
    assert state["rounds"]["0"]["trained"]["weights"]["path"] == "weights/v0001"
    if is_old:  # as earlier versions wrote it
        state["rounds"]["0"]["trained"]["weights"]["path"] = weights.path
        (run / "ledger.json").write_text(json.dumps(state))
    shutil.copytree(run, moved)
    cfg = config(tmp_path / "elsewhere")
    again = Ledger.open(cfg, BASE)
    assert again.weights == Weights(1, str(moved / "weights/v0001"))
    again.close()
    shutil.rmtree(run)
    assert Ledger.reopen(moved).newest.weights.path == str(moved / "weights/v0001")


# -- two hosts -------------------------------------------------------------------------------------


def as_other_host(run_dir, age_s):
    """A living run of another host, on a file system that carries no locks."""
    owner = {"id": "ab", "host": "node-7", "kernel": "another", "pid": 41}
    (run_dir / OWNER_NAME).write_text(json.dumps(owner))
    before = time.time() - age_s
    os.utime(run_dir / OWNER_NAME, (before, before))


def test_a_directory_that_another_host_works_on_is_refused_while_it_gives_signs_of_life(tmp_path):
    Ledger.open(config(tmp_path), BASE).close()
    assert not (tmp_path / "run" / OWNER_NAME).exists()
    as_other_host(tmp_path / "run", age_s=40)
    with pytest.raises(LedgerError, match=r"in use by process 41 on node-7.* 4\d s ago"):
        Ledger.open(config(tmp_path), BASE)
    as_other_host(tmp_path / "run", age_s=400)
    (line,) = Ledger.open(config(tmp_path), BASE).news
    assert "taken over from process 41 on node-7, which gave no sign of life for 40" in line


def test_who_was_taken_over_commits_nothing_more(tmp_path):
    ledger = Ledger.open(config(tmp_path), BASE)
    before = (tmp_path / "run/ledger.json").read_text()
    as_other_host(tmp_path / "run", age_s=0)
    with pytest.raises(LedgerError, match="taken over by process 41 on node-7"):
        ledger.commit_tally(0, 3, Tally())
    ledger.close()
    assert (tmp_path / "run/ledger.json").read_text() == before
    assert not (tmp_path / "run/ledger.journal").exists()
    assert (tmp_path / "run" / OWNER_NAME).exists()  # the other's


def test_the_owner_is_renewed_while_the_run_lives_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.01)
    ledger = Ledger.open(config(tmp_path), BASE)
    path = tmp_path / "run" / OWNER_NAME
    os.utime(path, (1.0, 1.0))
    end = time.monotonic() + 10
    while path.stat().st_mtime == 1.0 and time.monotonic() < end:
        time.sleep(0.01)
    assert path.stat().st_mtime > 1.0
    ledger.close()
    assert not path.exists()
