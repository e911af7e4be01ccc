"""A damaged file of the store stops a run by its name; without it, the run goes on."""

from collections import Counter
from pathlib import Path

import pytest
from flow_fakes import Fuse, Killed, Process, end_state, small_config, stored

from virgo_ray.errors import TraceStoreError
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.store.dataset import StoreLocation, open_for_reading
from virgo_ray.store.sums import drop_fragments, find_damage
from virgo_ray.traces import repair
from virgo_ray.traces.__main__ import main


def stopped(cfg, step):
    """A run that died at the first step of this name."""
    steps = Process(small_config(Path(cfg.run_dir).parent / "whole", "gates=null")).run().fuse.steps
    with pytest.raises(Killed):
        Process(cfg, Fuse(steps.index(step))).run()


def spoil(cfg):
    """Flip a bit in the middle of the largest data file."""
    files = Path(cfg.run_dir, "buffer.lance/data").iterdir()
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)


def test_what_a_round_lost_before_its_fit_is_asked_again(folder, capsys):
    cfg = small_config(folder, "gates=null")
    stopped(cfg, "before fit of 2")
    before = stored(cfg)
    spoil(cfg)
    with pytest.raises(TraceStoreError, match="traces repair RUN --write"):
        Process(cfg).run()
    assert main(["repair", cfg.run_dir]) == 0
    assert "nothing was changed; --write drops" in capsys.readouterr().out
    assert main(["repair", cfg.run_dir, "--write"]) == 0
    said = capsys.readouterr().out
    assert f"{len(before)} rollouts were dropped" in said
    assert "round 1 has 0 of 8 rollouts: the run asks for the others again" in said
    Process(cfg).run()
    assert end_state(cfg) == end_state(small_config(folder / "whole", "gates=null"))


def test_what_a_trained_round_lost_is_said_and_stays_lost(folder, capsys):
    cfg = small_config(folder, "gates=null")
    stopped(cfg, "before fit of 3")
    spoil(cfg)
    assert main(["repair", cfg.run_dir, "--write"]) == 0
    said = capsys.readouterr().out
    assert "round 1 has 0 of 8 rollouts: it is trained, so they are not asked again" in said
    Process(cfg).run()
    assert Counter(t for t, _, _ in stored(cfg)) == {2: 8}
    ledger = Ledger.reopen(Path(cfg.run_dir))
    assert ledger.round(1).tally.asked == 8 and ledger.next_round == 3
    (repaired,) = read_state(Path(cfg.run_dir) / "ledger.json")["repairs"]
    assert "checksum differs (16 rollouts)" in repaired["dropped"][0]


def test_a_whole_store_is_left_as_it_is(folder, capsys):
    cfg = small_config(folder, "gates=null")
    Process(cfg).run()
    before = (Path(cfg.run_dir) / "ledger.json").read_text()
    assert main(["repair", cfg.run_dir, "--write"]) == 0
    assert capsys.readouterr().out == "every file of the store is what was written\n"
    assert (Path(cfg.run_dir) / "ledger.json").read_text() == before


@pytest.mark.parametrize(
    ("step", "is_repaired_again"),
    [
        ("reopen_round", True), ("drop_fragments", True),  # the damage still refuses a start
        ("commit_repaired", True), ("commit_repaired", False),
    ],
)  # fmt: skip
def test_killed_within_a_repair_no_round_is_trained_on_what_is_left(
    folder, monkeypatch, step, is_repaired_again
):
    cfg = small_config(folder, "gates=null")
    stopped(cfg, "before fit of 2")
    spoil(cfg)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(repair if step == "drop_fragments" else Ledger, step, kill)
        main(["repair", cfg.run_dir, "--write"])
    if is_repaired_again:
        assert main(["repair", cfg.run_dir, "--write"]) == 0
    Process(cfg).run()
    assert end_state(cfg) == end_state(small_config(folder / "whole", "gates=null"))


def kill(*_):
    raise Killed


def test_a_round_that_lost_rollouts_without_a_word_is_opened_by_a_repair(folder, capsys):
    cfg = small_config(folder, "gates=null")
    stopped(cfg, "before fit of 2")
    spoil(cfg)
    location = StoreLocation(f"{cfg.run_dir}/buffer.lance")
    dataset = open_for_reading(location)
    drop_fragments(dataset, find_damage(dataset, location))
    assert main(["repair", cfg.run_dir, "--write"]) == 0
    said = "round 1 has 0 of 8 rollouts: the run asks for the others again"
    assert capsys.readouterr().out.splitlines() == [
        "every file of the store is what was written",
        said,
    ]
    Process(cfg).run()
    assert end_state(cfg) == end_state(small_config(folder / "whole", "gates=null"))
