"""Whoever writes into a run directory says which file a full disk refused, and how much is free.

The system's own limit on the size of a file stands for a full disk. A user and mount namespace of
its own gives a full and a read-only file system to whoever may make one.
"""

import contextlib
import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from round_parts import evaluation

from virgo_ray.command import exit_code
from virgo_ray.data.pictures import write_once
from virgo_ray.errors import ConfigError, DataError, DiskError
from virgo_ray.files import disk_errors
from virgo_ray.model.blank import blank_pictures
from virgo_ray.monitor.metrics import JsonlSink
from virgo_ray.monitor.summary import write_report
from virgo_ray.records import Problem, Round, Weights
from virgo_ray.report.pages import Folder
from virgo_ray.tiny.draw import write_png
from virgo_ray.weights.probe import Probe, ProbeItem

BASE = Round(None, Weights(0, "base"), evaluation=evaluation(pass_at_1=0.25), seconds=1.0)


@contextlib.contextmanager
def full_disk(limit=100):
    """No file can become longer than `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def picture(folder):
    path = folder / "red.png"
    if not path.exists():
        Image.effect_noise((64, 64), 90).save(path)
    return str(path)


def write_metrics(folder):
    sink = JsonlSink(folder / "metrics.jsonl")
    for step in range(20):
        sink.write({"kind": "train", "train_step": step})
    sink.close()


def write_probe(folder):
    item = ProbeItem((1,) * 50, (2,) * 50, None)
    Probe((item,), ((0.0,) * 50,)).save(folder / "probe.json")


WRITERS = {
    "metrics.jsonl": write_metrics,
    "report.json": lambda f: write_report(f, [BASE], BASE.weights),
    "run.js": lambda f: Folder(f).put("run", ["x" * 200]),
    "white_64x64.png": lambda f: blank_pictures(
        Problem("p", "q", "a", images=(picture(f.parent),)), f / "blank"
    ),
    "drawn.png": lambda f: write_png(lambda: Image.effect_noise((64, 64), 90), f / "drawn.png"),
    "data": lambda f: write_once(b"x" * 200, f / "data"),
    "probe.json": write_probe,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_with_the_file_and_the_free_space_and_later_all_is_well(
    name, tmp_path
):
    folder = tmp_path / "run"
    folder.mkdir()
    picture(tmp_path)
    with full_disk(), pytest.raises(DiskError) as caught:
        WRITERS[name](folder)
    said = str(caught.value)
    assert said.startswith(str(folder)) and name in said and "File too large" in said
    assert "MB are free there" in said and "run the same command again" in said
    assert not list(folder.rglob(".*.tmp-*")), "a draft was left"
    WRITERS[name](folder)
    assert any(name in str(path) for path in folder.rglob("*"))


def test_metrics_after_a_full_disk_are_whole_lines(tmp_path):
    with full_disk(), pytest.raises(DiskError):
        write_metrics(tmp_path)
    write_metrics(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    whole = [line for line in lines if line.endswith("}")]
    assert len(lines) - len(whole) == 1 and all(map(json.loads, whole))


def test_a_full_disk_is_no_wrong_request():
    for kind in (ConfigError, DataError):
        with pytest.raises(DiskError, match="free space or check"), disk_errors(kind, "a failed"):
            raise OSError(28, "No space left on device")
        with pytest.raises(kind), disk_errors(kind, "a failed"):
            raise OSError(13, "Permission denied")


def test_a_writer_without_words_of_its_own_ends_the_command_with_code_1(capsys):
    def work():
        with open("/dev/full", "w") as full:
            full.write("x")

    assert exit_code(work) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: DiskError: ") and "No space left on device" in said
    with pytest.raises(FileNotFoundError):
        exit_code(lambda: Path("no/such/file").read_text())


IN_NAMESPACE = """
import os, subprocess, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import test_disk_errors as t
root = Path({root!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
(root / "run").mkdir()
t.picture(root)
if {how!r} == "full":
    with t.contextlib.suppress(OSError), open(root / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
else:
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
for name, write in t.WRITERS.items():
    try:
        write(root / "run")
        print(name, "was written")
    except t.DiskError as error:
        print("refused", {said!r} in str(error), str(root / "run") in str(error))
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("full", "No space left on device; 0.0 MB are free"), ("ro", "Read-only file system")],
)
def test_a_file_system_that_is_really_full_or_read_only(how, said, tmp_path):
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a mount namespace")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = IN_NAMESPACE.format(paths=paths, root=str(tmp_path), how=how, said=said)
    done = subprocess.run(
        [*unshare, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["refused True True"] * len(WRITERS), done


def test_a_librarys_log_on_a_full_disk_prints_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)  # as Python starts; put back afterwards
    log, handler = logging.getLogger("some.library"), logging.FileHandler("/dev/full")
    log.addHandler(handler)
    try:
        assert exit_code(lambda: log.error("no room for this")) == 0
        assert capsys.readouterr().err == ""
    finally:
        log.removeHandler(handler)
