"""Files appear whole or not at all, directories have one owner, refusals say what to do."""

import ast
import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from virgo_ray.errors import ConfigError, LedgerError, WeightsError
from virgo_ray.files import (
    create_once,
    disk_errors,
    draft_of,
    lock_directory,
    move_aside,
    remove_drafts,
    write_atomically,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("content", ["new ü", "new ü".encode()])
def test_a_file_is_replaced_and_no_draft_is_left(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_text(encoding="utf-8") == "new ü" and names(tmp_path) == ["a.json"]


def test_text_of_a_model_that_is_no_unicode_is_written_escaped(tmp_path):
    write_atomically(tmp_path / "a", '"\ud800"')
    assert (tmp_path / "a").read_text() == r'"\ud800"'


@pytest.mark.parametrize("is_directory", [False, True])
def test_a_failed_block_leaves_what_was_there_and_no_draft(tmp_path, is_directory):
    path = tmp_path / "a"
    if not is_directory:
        path.write_text("old")

    def fail():
        with draft_of(path) as draft:
            if is_directory:
                draft.mkdir()
                draft = draft / "part"
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert is_directory or path.read_text() == "old"
    assert names(tmp_path) == ([] if is_directory else ["a"])


def test_all_of_a_directory_is_flushed_before_it_has_its_name_and_the_name_after(
    tmp_path, monkeypatch
):
    flushed = []

    def fsync(descriptor):
        flushed.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "v1").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with draft_of(tmp_path / "v1") as draft:
        (draft / "inner").mkdir(parents=True)
        (draft / "inner/file").write_text("x")
    assert (tmp_path / "v1/inner/file").read_text() == "x"
    expected = {str(path) for path in (draft, draft / "inner", draft / "inner/file")}
    assert {path for path, is_renamed in flushed if not is_renamed} == expected
    assert flushed[-1] == (str(tmp_path), True)


def test_a_directory_that_has_content_is_not_replaced(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/old").write_text("")
    with pytest.raises(OSError), draft_of(tmp_path / "v1") as draft:
        draft.mkdir()
    assert names(tmp_path) == ["v1"] and names(tmp_path / "v1") == ["old"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with draft_of(path) as first:
        first.write_text("first")
        write_atomically(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from virgo_ray.files import draft_of
with draft_of(Path(sys.argv[1])) as draft:
    draft.mkdir()
    (draft / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_only_a_draft_that_can_be_removed(tmp_path):
    path, other = tmp_path / "v1", tmp_path / "v10"
    other.write_text("")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists() and len(names(tmp_path)) == 2
    with draft_of(other) as mine:
        mine.write_text("")
        remove_drafts(path)
        assert names(tmp_path) == sorted([mine.name, "v10"])
    remove_drafts(tmp_path / "nowhere/v1")


def test_what_exists_is_not_made_again(tmp_path):
    path = tmp_path / "folder/picture.png"
    create_once(path, lambda draft: draft.write_text("first"))
    create_once(path, lambda draft: draft.write_text("second"))
    assert path.read_text() == "first" and names(path.parent) == ["picture.png"]


def test_what_fails_to_be_made_leaves_nothing(tmp_path):
    def fail(draft):
        draft.write_text("half")
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        create_once(tmp_path / "picture.png", fail)
    assert names(tmp_path) == []


def test_what_is_in_the_way_gets_the_first_free_name(tmp_path):
    for number in (1, 2):
        (tmp_path / "v1").mkdir()
        assert move_aside(tmp_path / "v1", "other") == tmp_path / f"other-v1-{number}"


def lock(path, create=True):
    return lock_directory(path, LedgerError, "run_dir='run'", "choose another", create)


def test_a_directory_has_one_owner_who_is_named_until_he_leaves(tmp_path):
    held = lock(tmp_path / "run")
    expected = (
        f"run_dir='run' is in use by process {os.getpid()} on .*; wait for it to end, stop it, or "
        "choose another"
    )
    with pytest.raises(LedgerError, match=expected):
        lock(tmp_path / "run")
    held.close()
    lock(tmp_path / "run").close()


def test_a_directory_that_is_missing_or_cannot_be_made_is_explained(tmp_path):
    with pytest.raises(LedgerError, match=r"run_dir='run' cannot be written: .*; choose another"):
        lock(tmp_path / "run", create=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot be written: .*; choose another"):
        lock(tmp_path / "file/run")


def test_a_refusal_of_the_system_says_what_is_intact_and_what_to_do():
    with pytest.raises(LedgerError) as caught, disk_errors(LedgerError, "a failed", "b is intact"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        "a failed: [Errno 28] No space left on device; b is intact. Free space or check the file "
        "system, then run the same command again"
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with (
        pytest.raises(ConfigError, match=r"a failed: \[Errno 5\] broken; choose b"),
        disk_errors(ConfigError, "a failed", way_out="choose b"),
    ):
        raise OSError(5, "broken")


def test_only_refusals_of_the_system_and_what_is_named_are_turned():
    with pytest.raises(KeyError), disk_errors(WeightsError, "a failed"):
        raise KeyError("a bug")
    with (
        pytest.raises(WeightsError, match="a failed: 'of a library'"),
        disk_errors(WeightsError, "a failed", also=(KeyError,)),
    ):
        raise KeyError("of a library")


PACKAGE = Path(__file__).parents[2] / "virgo_ray"
KNOWS = ("files.py",)


def known_only_to_files(text):
    """Yield the lines that rename a file or lock it by themselves."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            if "fcntl" in names:
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            num = len(node.args)
            of_os = getattr(node.func.value, "id", "") in ("os", "shutil")
            if of_os and node.func.attr in ("replace", "rename", "move"):
                yield node.lineno
            elif node.func.attr in ("replace", "rename") and num == 1 and not node.keywords:
                yield node.lineno  # of a path; str.replace takes two


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(PACKAGE.rglob("*.py")) if not str(p).endswith(KNOWS)],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_only_one_module_knows_how_files_are_replaced_and_locked(path):
    found = list(known_only_to_files(path.read_text()))
    assert not found, f"{path}, lines {found}: use virgo_ray/files.py"


@pytest.mark.parametrize(
    "code",
    ["a.rename(b)", "a.replace(b)", "os.replace(a, b)", "shutil.move(a, b)", "import fcntl",
     "from fcntl import flock"],
)  # fmt: skip
def test_the_test_sees_what_belongs_into_one_module(code):
    assert list(known_only_to_files(code))


@pytest.mark.parametrize(
    "code", ["'a'.replace('b', 'c')", "replace(a, b=1)", "pool.replace(a, 'b')"]
)
def test_the_test_leaves_other_replacements_alone(code):
    assert not list(known_only_to_files(code))


def test_a_look_at_a_directory_keeps_no_start_out_of_it(tmp_path):
    lock(tmp_path).close()
    with open(tmp_path / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        lock(tmp_path).close()
        timer.join()
