"""In-round checkpoints: kept, torn, damaged, and where nothing can be written."""

import json
import shutil

import pytest

from virgo_ray.errors import TrainingError
from virgo_ray.train.checkpoint import (
    CheckpointStore,
    Position,
    count_repeated,
    is_of_earlier_version,
)
from virgo_ray.train.resuming import say_left_aside


def position(step, fit="mine"):
    return Position(fit, step, 1.0, 0.5)


@pytest.fixture
def store(tmp_path):
    """Steps 2 and 3 of one fit."""
    store = CheckpointStore(tmp_path / "fit", "mine")
    for step in (1, 2, 3):
        store.begin(step)
        (store.temporary(step) / "rank0.pt").write_bytes(bytes([step]) * 1000)
        store.commit(position(step))
    return store


DAMAGE = {
    "a file is gone": lambda d: (d / "rank0.pt").unlink(),
    "a file was cut off": lambda d: (d / "rank0.pt").write_bytes(b"\3" * 500),
    "a byte differs": lambda d: (d / "rank0.pt").write_bytes(b"\3" * 999 + b"\4"),
    "no description": lambda d: (d / "meta.json").unlink(),
    "half a description": lambda d: (d / "meta.json").write_text('{"position": {"fit": "mi'),
    "a file that nobody described": lambda d: (d / "rank1.pt").write_bytes(b"\3"),
    "another description": lambda d: (d / "meta.json").write_text('{"position": [], "files": []}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_an_error_that_names_the_whole_one(store, damage):
    damage(store.path(3))
    before = sorted(store.path(3).rglob("*"))
    with pytest.raises(
        TrainingError, match=r"step_000003 is damaged.*step_000002 is whole.*step 2"
    ):
        store.latest()
    assert sorted(store.path(3).rglob("*")) == before
    store.path(3).rename(store.path(3).with_name("aside"))
    assert store.latest() == position(2)


def test_a_checkpoint_that_names_no_work_is_of_an_earlier_version(store):
    assert not is_of_earlier_version(store.path(3))
    about = store.path(3) / "meta.json"
    meta = json.loads(about.read_text())
    del meta["work"]
    about.write_text(json.dumps(meta))
    assert is_of_earlier_version(store.path(3))
    assert "written by an earlier version of this program" in say_left_aside(store.path(3))
    assert "was made with other examples" in say_left_aside(store.path(2))
    about.unlink()
    assert not is_of_earlier_version(store.path(3))


def test_where_no_checkpoint_is_whole_the_error_says_so(store):
    for step in (2, 3):
        (store.path(step) / "rank0.pt").unlink()
    with pytest.raises(TrainingError, match="No other checkpoint of this fit is whole"):
        store.latest()


def test_the_newest_whole_one_counts_and_a_damaged_older_one_is_no_hindrance(store):
    (store.path(2) / "rank0.pt").unlink()
    assert store.latest() == position(3)


def test_a_kill_while_writing_leaves_no_checkpoint(store):
    store.begin(4)
    (store.temporary(4) / "rank0.pt").write_bytes(b"\4")
    assert store.latest() == position(3)
    store.begin(5)
    assert not store.temporary(4).exists()


def test_what_belongs_to_another_fit_is_left_alone_even_if_it_is_damaged(store, tmp_path):
    (store.path(3) / "rank0.pt").unlink()
    yours = CheckpointStore(tmp_path / "fit", "yours")
    assert yours.latest() is None
    assert [path.name for path in yours.others()] == ["step_000002", "step_000003"]
    assert store.others() == []


def test_a_changed_fit_neither_loses_its_own_checkpoints_nor_those_that_were_there(store, tmp_path):
    yours = CheckpointStore(tmp_path / "fit", "yours")
    for step in (1, 2):
        yours.begin(step)
        (yours.temporary(step) / "rank0.pt").write_bytes(b"mine now")
        yours.commit(position(step, "yours"))
        assert yours.latest() == position(step, "yours")
    assert store.latest() == position(3)
    yours.clear()
    assert not (tmp_path / "fit").exists()


def test_an_unwritable_directory_is_a_clear_error(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="no checkpoint could be written"):
        CheckpointStore(tmp_path / "file/fit", "mine").begin(1)
    store.begin(4)
    shutil.rmtree(tmp_path / "fit")
    with pytest.raises(TrainingError, match="those before are intact"):
        store.commit(position(4))


def test_a_checkpoint_carries_what_its_last_steps_reported_and_older_ones_may_lack_it(store):
    reports = [{"step": s, "loss": 1.0 / s} for s in (3, 4)]
    told = Position("mine", 4, 1.0, 0.25, reports)
    store.begin(4)
    store.commit(told)
    assert store.latest() == told
    meta = store.path(4) / "meta.json"
    known = json.loads(meta.read_text())
    del known["position"]["recent"]
    meta.write_text(json.dumps(known))
    assert store.latest() == Position("mine", 4, 1.0, 0.25)


# -- the same work, spread over other ranks --------------------------------------------------------


def of(tmp_path, fit, work="work"):
    return CheckpointStore(tmp_path / "run", fit, work)


def save(store, fit, *steps):
    for step in steps:
        store.begin(step)
        (store.temporary(step) / "rank0.pt").write_bytes(bytes([step]) * 10)
        store.commit(position(step, fit))


def test_the_newest_of_all_fits_of_the_same_work_is_gone_on_from(tmp_path):
    two, four, other = (of(tmp_path, fit) for fit in ("two", "four", "changed"))
    save(two, "two", 1, 2)
    assert four.latest() == position(2, "two")
    assert four.place(position(2, "two")) == two.path(2)
    assert four.others() == []
    save(four, "four", 3)
    assert two.latest() == four.latest() == position(3, "four")
    save(two, "two", 3)
    assert (two.latest(), four.latest()) == (position(3, "two"), position(3, "four"))  # its own
    assert of(tmp_path, "changed", "other work").latest() is None
    assert other.latest() is not None


def test_checkpoints_of_the_same_work_go_when_two_newer_ones_are_there_and_no_others(tmp_path):
    two, four, changed = of(tmp_path, "two"), of(tmp_path, "four"), of(tmp_path, "new", "new work")
    save(two, "two", 1, 2)
    save(changed, "new", 1)
    save(four, "four", 3)
    assert two.path(2).exists() and not two.path(1).exists()
    save(four, "four", 4)
    assert not two.path(2).exists()
    assert changed.latest() == position(1, "new")
    assert [path.parent.name for path in four.others()] == ["fit_new"]


def test_a_damaged_one_of_the_same_work_is_an_error_too(tmp_path):
    two, four = of(tmp_path, "two"), of(tmp_path, "four")
    save(two, "two", 1, 2)
    (two.path(2) / "rank0.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"step_000002 is damaged.*step_000001 is whole"):
        four.latest()


def test_checkpoints_that_say_nothing_of_their_work_belong_to_their_own_fit_alone(store, tmp_path):
    assert CheckpointStore(tmp_path / "fit", "yours").latest() is None
    assert CheckpointStore(tmp_path / "fit", "yours", "work").latest() is None
    assert CheckpointStore(tmp_path / "fit", "mine", "work").latest() == position(3)


def test_what_is_done_again_is_counted_in_steps_and_seconds(store):
    reports = [{"step": s, "loss": 1.0, "seconds": 30.0} for s in (3, 4)]
    store.begin(4)
    store.commit(Position("mine", 4, 1.0, 0.25, reports))
    assert count_repeated(store.path(4)) == (4, 120.0)
    assert count_repeated(store.path(3)) == (3, 0.0)
    (store.path(4) / "meta.json").write_text("{")
    assert count_repeated(store.path(4)) == (0, 0.0)
