"""The ledger's journal: what a commit appends, what a kill leaves, what damage says."""

import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_parts import evaluation
from test_ledger import BASE, FAILURE, config, fit, interrupt

from virgo_ray.errors import LedgerError
from virgo_ray.ledger import journal
from virgo_ray.ledger.file import dump_state, load_state, read_state
from virgo_ray.ledger.journal import DamagedJournalError, Journal, encode, replay
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Tally, Weights


def commit_rounds(book, rounds):
    for t in rounds:
        book.commit_tally(t, 3 + t, Tally(asked=5, accepted=t))
        book.commit_fit(t, fit(t + 1))
        book.commit_evaluation(t, evaluation(pass_at_1=0.25), [FAILURE] if t == 1 else [])


def kill(book):
    """What the operating system does for a dead process."""
    book._lock.close()


def paths(tmp_path):
    return tmp_path / "run/ledger.json", tmp_path / "run/ledger.journal"


@pytest.fixture
def killed(tmp_path):
    """A run of two rounds whose process died: the file is that of its start."""
    book = Ledger.open(config(tmp_path), BASE)
    commit_rounds(book, range(2))
    kill(book)
    return tmp_path


def test_a_start_folds_what_runs_that_were_killed_left(killed):
    path, lines = paths(killed)
    again = Ledger.open(config(killed), BASE)
    assert lines.exists()  # six commits are read at once
    commit_rounds(again, [2])
    kill(again)
    kill(Ledger.open(config(killed), BASE))
    assert not lines.exists() and list(json.loads(path.read_text())["rounds"]) == ["0", "1", "2"]
    assert Ledger.open(config(killed), BASE).next_round == 3


def test_a_failure_that_could_not_be_read_again_is_not_committed(killed):
    book = Ledger.open(config(killed), BASE)
    book.commit_tally(2, 5, Tally(asked=5, accepted=1))
    book.commit_fit(2, fit(3))
    for bad in ({"limit": None}, {"value": np.bool_(True)}, {"reference_round": (0, 1)}):
        with pytest.raises(LedgerError, match=f"cannot be committed: {next(iter(bad))} is"):
            book.commit_evaluation(2, evaluation(pass_at_1=0.2), [replace(FAILURE, **bad)])
    assert not book.has_evaluation(2)
    book.commit_evaluation(2, evaluation(pass_at_1=0.2), [FAILURE])
    assert read_state(paths(killed)[0])["rejected"].keys() == {"1", "2"}


# -- going on --------------------------------------------------------------------------------------


def test_a_commit_appends_a_line_and_leaves_the_file_as_it_is(killed):
    path, lines = paths(killed)
    assert json.loads(path.read_text())["rounds"] == {}
    found = [json.loads(line)["commit"] for line in lines.read_text().splitlines()]
    assert [c["sequence"] for c in found] == [1, 2, 3, 4, 5, 6]
    assert found[0]["changes"][0][0] == ["rounds", "0", "explored"]
    assert load_state(path) == read_state(path) and list(read_state(path)["rounds"]) == ["0", "1"]


@pytest.mark.parametrize("opened", ["open", "reopen"])
def test_a_killed_run_goes_on_with_what_its_journal_holds(killed, opened):
    path, lines = paths(killed)
    again = Ledger.reopen(path.parent) if opened == "reopen" else Ledger.open(config(killed), BASE)
    assert again.next_round == 2 and again.round(1).failures == (FAILURE,)
    assert again.newest.weights.version == 2 and again.weights.version == 1
    commit_rounds(again, [2])
    again.close()
    assert not lines.exists() and list(json.loads(path.read_text())["rounds"]) == ["0", "1", "2"]


def test_a_ledger_that_nothing_is_committed_to_is_left_alone(killed):
    before = [p.read_bytes() for p in paths(killed)]
    Ledger.reopen(killed / "run").close()
    Ledger.open(config(killed), BASE).close()
    assert [p.read_bytes() for p in paths(killed)] == before


def test_what_changed_since_the_last_start_is_committed_before_the_config(killed):
    moved, cfg = Weights(0, "/elsewhere"), config(killed, "train.lr=0.1")
    book = Ledger.open(cfg, moved)
    assert (book.base, book.round(None).weights) == (moved, moved)
    kill(book)
    again = Ledger.reopen(killed / "run")
    assert again.base == moved and [c["key"] for c in again.changes] == ["train.lr"]
    again.close()
    assert Ledger.open(cfg, moved).news == []


def test_a_kill_between_the_two_files_changes_nothing(killed):
    path, lines = paths(killed)
    state, commits = read_state(path), lines.read_bytes()
    path.write_text(dump_state(state))  # the journal was not begun anew any more
    assert read_state(path) == state
    book = Ledger.reopen(path.parent)
    book.commit_failures(1, [])
    kill(book)
    assert lines.read_bytes().startswith(commits)
    assert read_state(path)["sequence"] == 7 and not Ledger.reopen(path.parent).round(1).failures


@pytest.mark.parametrize("is_over", [False, True])
def test_a_torn_last_line_is_dropped_wherever_it_ends(killed, is_over):
    path, lines = paths(killed)
    content = lines.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    for end in (last, last + 1, last + 80, len(content) - 1):
        lines.write_bytes(content[:end])
        assert list(read_state(path)["evaluations"]) == ["0"]
        book = Ledger.reopen(path.parent)
        book.commit_regraded(3, 4, {})  # a shorter line than that which was torn
        book.commit_evaluation(1, evaluation(pass_at_1=0.75))
        book.close() if is_over else kill(book)
        found = load_state(path)
        assert found["evaluations"]["1"]["pass_at_1"] == 0.75 and len(found["regrades"]) == 1
        if is_over:
            break


def test_a_directory_is_read_while_its_run_goes_on(tmp_path, monkeypatch):
    """A reader that was stopped between the two files sees one moment, not two."""
    book = Ledger.open(config(tmp_path), BASE)
    path, lines = paths(tmp_path)
    commit_rounds(book, range(2))
    reads = []

    read = type(path).read_bytes

    def reading(self):
        content = read(self)
        reads.append(self.name)
        if self == lines:
            book._fold()
            commit_rounds(book, [2])
        return content

    with monkeypatch.context() as slow:
        slow.setattr(type(path), "read_bytes", reading)
        assert list(load_state(path)["rounds"]) == ["0", "1"]
    assert reads == ["ledger.journal", "ledger.json"] and len(load_state(path)["rounds"]) == 3
    book.close()


# -- folding ---------------------------------------------------------------------------------------


def test_no_commit_writes_the_file_anew_and_the_end_of_a_start_does(tmp_path):
    book = Ledger.open(config(tmp_path), BASE)
    path, _ = paths(tmp_path)
    before = path.read_bytes()
    for t in range(12):
        commit_rounds(book, [t])
        assert path.read_bytes() == before and read_state(path) == book._state
    again = [Ledger.round(book, t) for t in range(12)]
    book.close()
    book = Ledger.open(config(tmp_path), BASE)
    assert [book.round(t) for t in range(12)] == again and json.loads(path.read_text()) == {
        **book._state
    }
    book.close()


def test_a_commit_is_as_large_as_what_it_changes(tmp_path):
    book = Ledger.open(config(tmp_path), BASE)
    _, lines = paths(tmp_path)
    sizes = [0]
    for t in range(15):
        commit_rounds(book, [t])
        sizes.append(lines.stat().st_size)
    added = [b - a for a, b in pairwise(sizes)]
    assert max(added) - min(added) < 400  # digits, and the failure of one round
    book.close()


def test_a_ledger_of_before_opens_and_its_first_commit_makes_it_one_with_a_journal(tmp_path):
    book = Ledger.open(config(tmp_path), BASE)
    commit_rounds(book, range(1))
    book.close()
    path, lines = paths(tmp_path)
    old = {k: v for k, v in json.loads(path.read_text()).items() if k != "sequence"} | {"schema": 1}
    path.write_text(json.dumps(old, indent=1))
    book = Ledger.reopen(path.parent)
    assert book.round(0).tally == Tally(asked=5) and json.loads(path.read_text())["schema"] == 1
    book.commit_regraded(3, 4, {"changed": 1})
    assert json.loads(path.read_text())["schema"] == 2 and not lines.exists()
    book.commit_regraded(4, 5, {"changed": 1})
    kill(book)
    assert len(read_state(path)["regrades"]) == 2


def test_a_ledger_that_was_removed_takes_its_journal_with_it(killed, monkeypatch):
    path, lines = paths(killed)
    path.unlink()
    with monkeypatch.context() as early, pytest.raises(KeyboardInterrupt):
        early.setattr(Ledger, "_write_config", interrupt)
        Ledger.open(config(killed), BASE)
    assert not lines.exists()  # before there is a file that it could seem to belong to
    book = Ledger.open(config(killed), BASE)
    assert book.next_round == 0 and not lines.exists()
    book.close()


# -- damage ----------------------------------------------------------------------------------------


def flip(content):
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


def without_a_line(content):
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:2] + lines[3:])


DAMAGE = {
    "a bit": (flip, r"ledger\.journal is damaged: line 1 is not what was written"),
    "a line is gone": (without_a_line, r"goes on with commit 4, expected 3: lines are missing"),
    "the last line is another's": (lambda c: c + b"what?\n", r"line 7 is not what was written"),
    "zeros": (lambda c: bytes(len(c) - 1) + b"\n", r"line 1 is not what was written"),
}


@pytest.mark.parametrize("place", [-3, -40, 5, 60])
def test_a_last_line_that_lacks_a_page_was_not_committed_and_the_next_start_says_so(killed, place):
    path, lines = paths(killed)
    content = lines.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    at = len(content) + place if place < 0 else last + len('{"sha256": "') + place
    lines.write_bytes(content[:at] + b"\0" + content[at + 1 :])
    assert list(read_state(path)["evaluations"]) == ["0"]
    book = Ledger.reopen(path.parent)
    (said,) = [text for text in book.news if "ledger.journal" in text]
    assert f"its last line ({len(content) - last} bytes) is not what was written" in said
    book.commit_evaluation(1, evaluation(pass_at_1=0.75))
    kill(book)
    assert load_state(path)["evaluations"]["1"]["pass_at_1"] == 0.75
    assert not [text for text in Ledger.reopen(path.parent).news if "ledger.journal" in text]


def test_a_journal_that_goes_just_before_it_is_read_is_in_the_file(killed, monkeypatch):
    path, lines = paths(killed)
    whole, read = read_state(path), type(path).read_bytes

    def folding(self):
        if self == lines:
            path.write_text(dump_state(whole))
            lines.unlink()
        return read(self)

    monkeypatch.setattr(type(path), "read_bytes", folding)
    assert load_state(path) == whole


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_line_is_an_error_that_says_what_can_be_done(killed, name):
    _, lines = paths(killed)
    spoil, expected = DAMAGE[name]
    lines.write_bytes(spoil(lines.read_bytes()))
    before = [p.read_bytes() for p in paths(killed)]
    for opened in (
        lambda: Ledger.open(config(killed), BASE),
        lambda: Ledger.reopen(killed / "run"),
    ):
        with pytest.raises(LedgerError, match=expected) as caught:
            opened()
        assert "without that line and all after it, the run goes on" in str(caught.value)
    assert [p.read_bytes() for p in paths(killed)] == before


@pytest.mark.parametrize("place", ["rounds.1.trained.weights", "wandb_id", "base"])
def test_what_a_journal_leads_to_is_checked_like_the_file(killed, place):
    path, lines = paths(killed)
    sequence = read_state(path)["sequence"] + 1
    line = encode(sequence, [(tuple(place.split(".")), None)])
    lines.write_bytes(lines.read_bytes() + line)
    with pytest.raises(LedgerError, match=f"{place}: Field required"):
        read_state(path)


def test_a_commit_that_finds_no_room_is_not_there_and_the_next_one_is_whole(tmp_path, monkeypatch):
    book = Ledger.open(config(tmp_path), BASE)
    commit_rounds(book, [0])
    path, lines = paths(tmp_path)
    before = lines.read_bytes()
    half = os.pwrite

    def full(file, content, at):
        half(file, content[:20], at)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(journal.os, "pwrite", full)
        with pytest.raises(
            LedgerError, match=r"No space left.*what was committed before is intact"
        ):
            book.commit_tally(1, 4, Tally())
    assert lines.read_bytes()[: len(before)] == before and "1" not in read_state(path)["rounds"]
    other = shutil.copytree(path.parent, tmp_path / "other")
    Ledger.reopen(other).close()
    book.commit_regraded(4, 5, {})  # with what could not be written before
    assert "1" in read_state(path)["rounds"] and len(read_state(path)["regrades"]) == 1
    book.close()


def test_what_could_not_be_committed_is_not_written_at_the_end(tmp_path, monkeypatch):
    book = Ledger.open(config(tmp_path), BASE)
    commit_rounds(book, [0])
    with monkeypatch.context() as disk:
        disk.setattr(Journal, "append", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(LedgerError, match="gone"):
            book.commit_tally(1, 4, Tally())
    book.close()
    assert list(read_state(paths(tmp_path)[0])["rounds"]) == ["0"]


# -- lines -----------------------------------------------------------------------------------------

values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
key = st.sampled_from(["a", "b", "ü\n"])
change = st.tuples(st.lists(key, min_size=1, max_size=1), values | st.none())


@given(st.lists(st.lists(change, max_size=3), max_size=6), st.integers(0, 400))
def test_what_is_replayed_is_what_was_committed(commits, cut):
    states = [{}]
    for n, changes in enumerate(commits, 1):
        state = json.loads(json.dumps(states[-1]))
        journal.apply(state, changes)
        states.append({**state, "sequence": n})
    content = b"".join(encode(n, changes) for n, changes in enumerate(commits, 1))
    for end in (len(content), min(cut, len(content))):
        found = {}
        num = replay(found, content[:end])
        assert num == content[:end].count(b"\n") and found == states[num]


def test_a_gap_is_damage_and_what_is_known_is_passed_over():
    content = encode(3, [(("a",), 1)]) + encode(4, [(("a",), 2)])
    assert replay({"sequence": 4}, content) == 0 and replay({"sequence": 3}, content) == 1
    with pytest.raises(DamagedJournalError, match="commit 3, expected 2"):
        replay({"sequence": 1}, content)
