"""A run directory of an earlier version goes on: its config is migrated, its values are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from virgo_ray.config import complete_from_stored, fingerprint, load_config, read_stored, stored
from virgo_ray.doctor import __main__ as doctor
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.plan import __main__ as plan
from virgo_ray.records import Weights
from virgo_ray.run import load_run_config

TINY = "configs/tiny.yaml"
OLD_RUN = Path(__file__).parents[1] / "data" / "run_f0034ba"
BASE = Weights(0, "/models/base")
THEN = (  # what the old run was made with, where defaults are others now
    "select.max_luck=1.0", "select.min_correct=2", "train.seed_share=0.5", "train.seed_floor=0",
    "gates.margin=2.0",
)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


def change(run_dir: Path, section: str = "train", **values: object) -> None:
    """Set keys of a section in the stored config, as another version might have written them."""
    path = run_dir / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content[section] |= values
    path.write_text(yaml.safe_dump(content))


def test_a_run_directory_of_an_earlier_commit_goes_on(run_dir):
    cfg = load_run_config(TINY, [f"run_dir={run_dir}"])
    ledger = Ledger.open(cfg, BASE)
    assert ledger.next_round == 2 and ledger.weights.version == 2
    base, first, second = ledger.rounds()
    assert (base.label, base.weights, base.tally, base.fit) == ("base", BASE, None, None)
    assert [r.measured.pass_at_1 for r in (base, first, second)] == [0.115, 0.805, 0.925]
    assert second.tally is not None and second.fit is not None
    assert (second.tally.accepted, second.tally.new, second.fit.num_steps) == (1362, 1362, 109)
    assert second.tally.sources["tiny/bars"].accept_rate == 0.75
    assert second.measured.per_source["tiny/bars"].pass_at_1 == 1.0
    assert ledger.num_barren() == 0 and not ledger.is_complete(3)
    ledger.close()
    Ledger.reopen(run_dir).close()


def test_keys_that_are_not_set_keep_the_stored_value(run_dir, capsys):
    change(run_dir, weight_decay=0.25)  # as if this had been the default then
    cfg = load_run_config(TINY, [f"run_dir={run_dir}"])
    assert cfg.train.weight_decay == 0.25
    assert "train.weight_decay=0.25" in capsys.readouterr().out
    Ledger.open(cfg, BASE).close()


@pytest.mark.parametrize("command", ["doctor", "plan"])
def test_doctor_and_plan_look_at_the_config_that_the_run_has(run_dir, command, capsys, monkeypatch):
    """What a run was begun with is kept and no contradiction, and a key that is not set is said."""
    change(run_dir, weight_decay=0.25)
    content = yaml.safe_load((run_dir / "config.yaml").read_text())
    content["evaluate"]["sampling"]["temperature"] = 0.0
    (run_dir / "config.yaml").write_text(yaml.safe_dump(content))
    seen = []
    monkeypatch.setattr(doctor, "findings", lambda subject: seen.append(subject.cfg) or [])
    monkeypatch.setattr(plan, "find_ways", lambda cfg, *_: seen.append(cfg) or [])
    monkeypatch.setattr(plan, "BUNDLED", ())  # lengths are assumed, which is quicker
    words = [TINY, f"run_dir={run_dir}", "evaluate.sampling.temperature=0"]
    assert {"doctor": doctor, "plan": plan}[command].main(words) == 0
    said = capsys.readouterr().out
    assert "train.weight_decay=0.25" in said and "warning: evaluate.sampling.temp" in said
    run_cfg = load_run_config(TINY, words[1:])
    assert seen[0].train.weight_decay == 0.25 and seen[0].evaluate == run_cfg.evaluate


def test_a_key_that_is_set_is_not_kept_and_the_ledger_names_it(run_dir):
    change(run_dir, weight_decay=0.25)
    cfg = load_run_config(TINY, [f"run_dir={run_dir}", "train.weight_decay=0.5"])
    assert cfg.train.weight_decay == 0.5
    assert Ledger.open(cfg, BASE).news == [
        "changed: train.weight_decay: 0.25 -> 0.5, from the next fit on (round 2)"
    ]


def test_a_section_that_was_null_can_be_set_and_one_that_is_set_to_null_is(run_dir):
    cfg = load_config(TINY, [f"run_dir={run_dir}", "train.lora.rank=8", "gates=null"])
    completed, kept = complete_from_stored(cfg, run_dir)
    assert completed.train.lora is not None and completed.train.lora.rank == 8
    assert completed.gates is None
    assert not any(key.startswith(("gates", "train.lora")) for key in kept)


def test_a_new_run_is_left_as_it_is(tmp_path):
    cfg = load_config(TINY, [f"run_dir={tmp_path}/new"])
    assert complete_from_stored(cfg, tmp_path / "new") == (cfg, {})


def test_a_deleted_key_at_its_old_default_is_dropped_and_another_value_is_named(
    run_dir, monkeypatch
):
    monkeypatch.setattr(stored, "REMOVED_KEYS", {"train.momentum": 0.9, "other.gone": None})
    change(run_dir, momentum=0.9)
    assert read_stored(run_dir).train.num_workers == 2
    change(run_dir, momentum=0.5)
    with pytest.raises(
        ConfigError, match=r"train\.momentum=0\.5, which this version no longer has"
    ):
        read_stored(run_dir)


def test_a_run_of_before_the_floor_goes_on_without_one_unless_it_is_set(run_dir, capsys):
    cfg = load_run_config(TINY, [f"run_dir={run_dir}"])
    assert (cfg.train.seed_share, cfg.train.seed_floor) == (0.5, 0.0)
    assert "train.seed_floor=0.0, train.seed_share=0.5" in capsys.readouterr().out
    cfg = load_run_config(TINY, [f"run_dir={run_dir}", "train.seed_floor=1.0"])
    assert Ledger.open(cfg, BASE).news == [
        "changed: train.seed_floor: 0.0 -> 1.0, from the next fit on (round 2)"
    ]


def test_a_run_of_before_the_bound_on_luck_goes_on_without_one_unless_it_is_set(run_dir, capsys):
    content = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(content.replace("  max_luck: 1.0\n", ""))
    cfg = load_run_config(TINY, [f"run_dir={run_dir}"])
    assert (cfg.select.max_luck, cfg.select.min_correct) == (1.0, 2)
    assert "select.max_luck=1.0, select.min_correct=2" in capsys.readouterr().out
    cfg = load_run_config(TINY, [f"run_dir={run_dir}", "select.max_luck=0.05"])
    assert Ledger.open(cfg, BASE).news == [
        "changed: select.max_luck: 1.0 -> 0.05, from the next fit on (round 2)"
    ]


def test_a_stored_number_of_extra_rollouts_is_read_as_its_share(run_dir):
    """explore.extra.budget, which configs/tiny_improved.yaml set to 800 once."""
    extra = {"max_samples": 4, "until_correct": 2, "batch": 2}
    change(run_dir, "explore", num_problems=800, extra={**extra, "budget": 800})
    assert read_stored(run_dir).explore.extra.budget_share == 1.0
    cfg = load_run_config(TINY, [f"run_dir={run_dir}"])
    assert cfg.explore.extra.model_dump() == {**extra, "budget_share": 1.0}
    ledger = Ledger.open(cfg, BASE)
    assert ledger.news == []
    ledger.close()
    change(run_dir, "explore", num_problems=400, extra={**extra, "budget": 100})
    assert read_stored(run_dir).explore.extra.budget_share == 0.25
    change(run_dir, "explore", extra={**extra, "budget": None})
    assert read_stored(run_dir).explore.extra.budget_share is None


def test_a_key_that_nobody_knows_is_named(run_dir):
    change(run_dir, momentum=0.9)
    with pytest.raises(ConfigError, match=r"train\.momentum=0\.9: unknown key"):
        read_stored(run_dir)


@pytest.mark.parametrize("content", [b"- 1", b"a: [", b"", b"\xff\xfe"])
def test_a_stored_config_that_cannot_be_read_is_named_and_does_not_stop_an_unchanged_run(
    run_dir, content
):
    ledger = json.loads((run_dir / "ledger.json").read_text())
    overrides = [f"run_dir={run_dir}", *THEN]
    ledger["fingerprint"] = fingerprint(load_config(TINY, overrides))
    (run_dir / "ledger.json").write_text(json.dumps(ledger))
    (run_dir / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_stored(run_dir)
    Ledger.open(load_run_config(TINY, overrides), BASE).close()


def test_what_may_change_at_any_start_is_not_kept(run_dir):
    first = ["rollout.num_workers=4", "rollout.min_workers=3", "gates.max_text_fall=null"]
    cfg = load_run_config(TINY, [f"run_dir={run_dir}", *first])
    Ledger.open(cfg, BASE).close()
    again = load_run_config(TINY, [f"run_dir={run_dir}", "rollout.num_workers=2"])
    assert (again.rollout.num_workers, again.rollout.min_workers) == (2, 1)
    # Gates decide on rounds: those that were made are judged as they were.
    assert again.gates is not None and again.gates.max_text_fall is None


def test_a_directory_without_a_ledger_decides_nothing(run_dir):
    change(run_dir, weight_decay=0.25)
    (run_dir / "ledger.json").unlink()
    assert load_run_config(TINY, [f"run_dir={run_dir}"]).train.weight_decay == 0.0


def test_keys_that_exclude_stored_ones_are_named_by_the_ledger(run_dir):
    change(run_dir, num_epochs=4.0, stop_epoch=2.0, num_tokens=None)
    cfg = load_run_config(TINY, [f"run_dir={run_dir}", "train.num_tokens=1000"])
    changed = [change["key"] for change in Ledger.open(cfg, BASE).changes]
    assert {"train.num_tokens", "train.stop_epoch"} <= set(changed)
