"""Pictures are looked at by processes that may hang or die, and what was found is remembered."""

import io
import json
import os
import shutil
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from virgo_ray.config import ModelConfig, PromptConfig, SourceConfig
from virgo_ray.data import progress as progress_module
from virgo_ray.data.fact_file import FactFile, make_key
from virgo_ray.data.gallery import gallery as gallery_module
from virgo_ray.data.gallery.facts import PictureFacts, PictureFault, look_at
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.gallery.pool import Job, PicturePool
from virgo_ray.data.problems import read_problems
from virgo_ray.data.progress import IngestProgress
from virgo_ray.data.sound_golds import SoundGolds
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.model.images import image_hash, image_size
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, SeedThought
from virgo_ray.verify.process.golds import GoldChecker

# Python runs this at the start of every worker: pictures whose names say so hang or kill.
ODD_DECODERS = """
import os, signal, time
from PIL import Image
_open = Image.open
def odd(path, *more):
    name = os.path.basename(str(path))
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("die"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("once") and not os.path.exists(str(path) + ".seen"):
        open(str(path) + ".seen", "w").close()
        os._exit(1)
    return _open(path, *more)
Image.open = odd
"""


@pytest.fixture
def odd_decoders(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(ODD_DECODERS)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def save(path, seed=None):
    rng = np.random.default_rng(crc32(path.name.encode()) if seed is None else seed)
    cells = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    cells.resize((64, 48)).save(path)
    return str(path)


def many(tmp_path, num, suffix="png"):
    return [save(tmp_path / f"{i}.{suffix}") for i in range(num)]


class Counting(PicturePool):
    """Counts the jobs that come to the processes."""

    jobs = ()

    def run(self, jobs):
        self.jobs = (*self.jobs, *jobs)
        return super().run(jobs)


def looked_at(monkeypatch):
    """Paths that this process itself looks at from now on."""
    seen = []

    def look(path):
        seen.append(path)
        return look_at(path)

    monkeypatch.setattr(gallery_module, "look_at", look)
    return seen


# -- processes -------------------------------------------------------------------------------------


def test_processes_find_what_this_one_finds(tmp_path):
    (tmp_path / "cut.png").write_bytes((tmp_path / save(tmp_path / "a.png")).read_bytes()[:90])
    (tmp_path / "empty.jpg").touch()
    odd = [str(tmp_path / name) for name in ("cut.png", "empty.jpg", "none.png")]
    paths = [*many(tmp_path, 40, "jpg"), *odd]
    with PicturePool(num_workers=2) as pool:
        found = {job.path: result for job, result in pool.run([Job(path) for path in paths])}
        hashed = dict(pool.run([Job(paths[0], is_decoded=False)]))
    assert found == {path: look_at(path) for path in paths}
    assert hashed == {Job(paths[0], False): found[paths[0]].sha256}
    faults = [found[path] for path in odd]
    assert [f.kind for f in faults] == ["image truncated", "image empty", "image missing"]
    assert [f.is_lasting for f in faults] == [True, True, False]
    assert found[paths[0]].size == image_size(paths[0]) == (64, 48)


def test_pictures_that_hang_or_kill_a_decoder_are_faults_by_name(tmp_path, odd_decoders):
    names = ["a", "hang", "b", "die", "c", "once", "d"]
    paths = {name: save(tmp_path / f"{name}.png") for name in names}
    with PicturePool(deadline_s=0.2, num_workers=1) as pool:
        found = {job.path: r for job, r in pool.run([Job(path) for path in paths.values()])}
    faults = {
        name: found[path] for name, path in paths.items() if isinstance(found[path], PictureFault)
    }
    assert {name: fault.kind for name, fault in faults.items()} == {
        "hang": "image unending", "die": "image deadly",
    }  # fmt: skip
    assert "hang.png' cannot be read" in faults["hang"].detail and "in 2 s" in faults["hang"].detail
    assert "signal SIGSEGV" in faults["die"].detail
    assert not any(fault.is_lasting for fault in faults.values())


def test_a_picture_that_never_ends_meets_the_deadline_in_cpu_time(tmp_path):
    path, whole = str(tmp_path / "scans.jpg"), tmp_path / "whole.jpg"
    Image.effect_noise((2000, 2000), 90).save(whole, progressive=True)
    head, mark, scan = whole.read_bytes().rpartition(b"\xff\xda")  # its last pass over the picture
    (tmp_path / "scans.jpg").write_bytes(head + (mark + scan[:12]) * 100_000)
    with PicturePool(deadline_s=0.5, num_workers=1) as pool:
        ((_, fault),) = pool.run([Job(path)])
    assert fault.kind == "image unending" and "s of CPU time" in fault.detail


def test_a_row_whose_picture_kills_is_bad_and_the_others_are_read(tmp_path, odd_decoders):
    rows = []
    for name in ("a.png", "die.tiff", "b.png"):
        save(tmp_path / name)
        rows.append({"question": f"What is {name}?", "answer": "2", "image": name})
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = SourceConfig(reader="jsonl", path=str(tmp_path / "d.jsonl"))
    (reading,) = read_problems(source, 0, tmp_path / "cache")
    assert [(fault.row, fault.kind) for fault in reading.faults] == [(2, "image deadly")]
    assert [number for number, _ in reading.taken] == [1, 3]


def test_a_pipe_in_place_of_a_picture_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with Gallery(tmp_path / "cache") as gallery:
        gallery.examine([str(tmp_path / "a.png")])
        gallery.hash([str(tmp_path / "a.png")])
        assert "a pipe or a device" in gallery.fault(str(tmp_path / "a.png")).detail


def test_few_plain_pictures_start_no_process_and_others_do(tmp_path):
    pool = Counting(num_workers=1)
    with Gallery(tmp_path / "cache", pool=pool) as gallery:
        gallery.examine([*many(tmp_path, 12), *many(tmp_path, 12, "jpg"), str(tmp_path / "no.gif")])
        assert not pool.jobs and not pool.is_running
        scans = (tmp_path / "0.jpg").read_bytes() + b"\xff\xda" * 1000
        (tmp_path / "scans.jpg").write_bytes(scans)
        others = [save(tmp_path / "a.webp"), str(tmp_path / "scans.jpg")]
        gallery.examine(others)
        assert [job.path for job in pool.jobs] == others


# -- memory ----------------------------------------------------------------------------------------


def examined(cache, paths):
    with Gallery(cache) as gallery:
        gallery.examine(paths)
        return [gallery.fault(path) or gallery._sound(path) for path in paths]


def test_what_was_found_is_remembered_faults_included(tmp_path, monkeypatch):
    paths = many(tmp_path, 5)
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:90])
    paths = [*paths, str(tmp_path / "cut.png"), str(tmp_path / "none.png")]
    before = examined(tmp_path / "cache", paths)
    seen = looked_at(monkeypatch)
    assert examined(tmp_path / "cache", paths) == before
    assert seen == [paths[-1]]  # a file that is not there may come


def test_a_picture_of_another_shape_with_the_same_pixels_is_another(tmp_path):
    for name, size in (("wide", (40, 20)), ("high", (20, 40))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("wide", "high")]
    with Gallery(tmp_path / "cache") as gallery:
        gallery.examine(paths)
        assert gallery.pixels(paths[0]) != gallery.pixels(paths[1])


def test_a_picture_that_lies_elsewhere_is_known_by_its_content(tmp_path, monkeypatch):
    paths = many(tmp_path, 3)
    before = examined(tmp_path / "cache", paths)
    moved = [shutil.copy(path, f"{path}.copy.png") for path in paths]
    seen = looked_at(monkeypatch)
    assert examined(tmp_path / "cache", moved) == before and not seen


def test_another_picture_under_the_same_path_is_looked_at(tmp_path):
    path = save(tmp_path / "a.bmp", 1)
    times = (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns)
    (before,) = examined(tmp_path / "cache", [path])
    save(tmp_path / "a.bmp", 2)  # of the same size, and with the old time
    os.utime(path, ns=times)
    (after,) = examined(tmp_path / "cache", [path])
    assert isinstance(after, PictureFacts) and after != before and after == look_at(path)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_letter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def fill_with_noise(path):
    path.write_bytes(os.urandom(5000))


def write_other_json(path):
    path.write_text('["00000000","x",1]\n{}\n[]\nnull\n\n')


@pytest.mark.parametrize("damage", [cut_in_half, flip_a_letter, fill_with_noise, write_other_json])
def test_a_damaged_memory_is_made_again(tmp_path, damage, monkeypatch):
    paths = many(tmp_path, 4)
    before = examined(tmp_path / "cache", paths)
    (file,) = (tmp_path / "cache" / ".facts").iterdir()
    damage(file)
    assert examined(tmp_path / "cache", paths) == before
    seen = looked_at(monkeypatch)
    assert examined(tmp_path / "cache", paths) == before and not seen


def test_a_memory_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".facts").write_text("a file")
    paths = many(tmp_path, 2)
    assert examined(tmp_path / "cache", paths) == [look_at(path) for path in paths]
    assert "cannot be written, so its facts are found again" in caplog.text


def test_facts_of_other_code_are_not_used(tmp_path):
    old = FactFile(tmp_path, "pictures", "code 1")
    old.put(make_key("a"), {"is": "old"})
    old.flush()
    assert FactFile(tmp_path, "pictures", "code 1").get(make_key("a")) == {"is": "old"}
    assert FactFile(tmp_path, "pictures", "code 2").get(make_key("a")) is None


def test_two_writers_of_one_file_keep_each_others_facts(tmp_path):
    one, other = FactFile(tmp_path, "x"), FactFile(tmp_path, "x")
    one.put(make_key(1), 1)
    one.flush()
    other.put(make_key(2), "zwei\n")
    other.flush()
    again = FactFile(tmp_path, "x")
    assert (again.get(make_key(1)), again.get(make_key(2))) == (1, "zwei\n") and again.is_old


def test_hashes_are_those_of_the_files(tmp_path):
    paths = many(tmp_path, 2)
    with Gallery(tmp_path / "cache") as gallery:
        gallery.hash([*paths, str(tmp_path / "none.png")])
        assert gallery.image_hash(tuple(paths)) == image_hash(tuple(paths))
        assert not gallery.has_hash(str(tmp_path / "none.png"))
        assert gallery.image_hash(()) == ""


# -- what else is remembered -----------------------------------------------------------------------


def test_sound_golds_are_judged_once_and_faults_every_time(tmp_path, monkeypatch):
    judged = []

    def find(self, problems):
        judged.append([p.answer for p in problems])
        return ["bad" if p.answer == "x" else "" for p in problems]

    monkeypatch.setattr(GoldChecker, "find_faults", find)
    answers = ["1", "x", "1", "2"]
    numbered = [(i, Problem(str(i), "?", answer)) for i, answer in enumerate(answers)]
    for _ in range(2):
        with SoundGolds(tmp_path) as golds:
            found = list(golds.find_faults(numbered))
        assert found == list(zip(numbered, ["", "bad", "", ""], strict=True))
    assert judged == [["1", "x", "2"], ["x"]]


def counted(tmp_path, prompt, problem, thought, path):
    prompter = Prompter(ModelConfig(path="tiny", max_length=512), prompt)
    with Gallery(tmp_path) as gallery, TokenCounts(prompter, tmp_path, gallery) as counts:
        gallery.examine([path])
        found = (counts.of_prompt(problem), counts.of_thought(thought), counts.of_text("How?"))
    example = prompter.example("", thought.problem, thought.thought).num_tokens
    fresh = Prompter(ModelConfig(path="tiny", max_length=512), prompt)
    assert found == (fresh.num_prompt_tokens(problem), example, fresh.num_text_tokens("How?"))
    return found


def test_remembered_lengths_are_those_of_the_prompter(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    problem = Problem("p", "How many?", "2", (path,), options=("1", "2"), context="Two cats.")
    thought = SeedThought(Problem("t", "Why?", ""), "Because it is so.")
    before = counted(tmp_path, PromptConfig(), problem, thought, path)
    assert counted(tmp_path, PromptConfig(), problem, thought, path) == before
    longer = PromptConfig(instruction="Think for a long time, and say what you see.")
    assert counted(tmp_path, longer, problem, thought, path) != before
    prompter = Prompter(ModelConfig(path="tiny", max_length=512), PromptConfig())
    monkeypatch.setattr(prompter, "prompt_ids", None)
    with Gallery(tmp_path) as gallery, TokenCounts(prompter, tmp_path, gallery) as counts:
        gallery.examine([path])
        assert counts.of_prompt(problem) == before[0]


# -- progress --------------------------------------------------------------------------------------


def shown(monkeypatch, after_s, **console):
    monkeypatch.setattr(progress_module, "SHOWN_AFTER_S", after_s)
    text = io.StringIO()
    with IngestProgress(Console(file=text, **console)).step("pictures decoded", 3) as count:
        for _ in range(3):
            count()
    return text.getvalue()


def test_progress_shows_on_a_terminal_only_and_only_what_is_slow(monkeypatch):
    assert "pictures decoded" in shown(monkeypatch, 0.0, force_terminal=True, width=80)
    assert shown(monkeypatch, 60.0, force_terminal=True) == ""
    assert shown(monkeypatch, 0.0, force_terminal=False) == ""
