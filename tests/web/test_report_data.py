"""What the report writes: every rollout, and what fits read, as scripts; no browser."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from report_run import HOSTILE, HOSTILE_ID, LETTERS, ROUNDS, make_run

from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Status
from virgo_ray.report import background, rollouts, training
from virgo_ray.report.background import ReportWriter
from virgo_ray.report.metrics import MOST_POINTS, read_on
from virgo_ray.report.pages import Folder, dump, read_data
from virgo_ray.report.provenance import find_commit
from virgo_ray.report.rollouts import STATUSES, Deadline, write_round
from virgo_ray.report.writing import write_report
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.traces.__main__ import main as traces
from virgo_ray.traces.source import find_run


def texts(folder, round):
    """All rows of a round's pages, in order."""
    known = read_data(folder, "run")["stored"][str(round)]
    pages = [read_data(folder, f"{known['folder']}/texts-{n}") for n in range(len(known["pages"]))]
    return [row for page in pages for row in page["rows"]]


def test_every_rollout_is_there_with_its_text_and_probes_are_not(report):
    stored = read_data(report, "run")["stored"]
    assert {label: known["rows"] for label, known in stored.items()} == {"1": 21, "2": 15}
    first = texts(report, 1)
    asked = {(id, i) for id, letters in ROUNDS[1].items() for i in range(len(letters))}
    asked |= {(HOSTILE_ID, i) for i in range(6)}
    assert {(row["problem_id"], row["sample_index"]) for row in first} == asked
    found = [row["text"] for row in first if row["problem_id"] == HOSTILE_ID]
    assert all(said in text for said, text in zip(HOSTILE, found, strict=True))


def test_columns_agree_with_the_texts_and_count_problems(report):
    rows, problems = read_data(report, "r1-1/rows-0"), read_data(report, "r1-1/problems")
    for n, row in enumerate(texts(report, 1)):
        assert STATUSES[rows["status"][n]] == row["status"]
        assert rows["tokens"][n] == row["num_tokens"] and rows["sample"][n] == row["sample_index"]
    counts = dict(zip(problems["id"], zip(problems["correct"], problems["judged"], strict=True),
                      strict=True))  # fmt: skip
    assert counts["half"] == (2, 3) and counts["none"] == (0, 3)
    assert counts["odd"] == (1, 2)  # one could not be judged
    assert problems["blank"][problems["id"].index("easy")] is True
    assert rows["opinion"][rows["sample"].index(2)] == 3  # doubts
    assert read_data(report, "run")["stored"]["1"]["bins"] == [1, 0, 0, 4, 0, 1]


def test_the_overview_has_intervals_gates_funnel_and_rounds_without_an_evaluation(report):
    run = read_data(report, "run")
    base, zero, one, two = run["rounds"]
    low, high = one["evaluation"]["intervals"]["pass_at_1"]
    assert low < one["evaluation"]["pass_at_1"] == 0.9 < high
    assert one["by_base"] == {"easy": [18, 20], "hard": [18, 20]}
    assert two["evaluation"] is None and two["gates"] == [] and base["funnel"] == []
    fall = next(g for g in one["gates"] if g["gate"] == "max_pass_at_1_fall")
    assert fall["is_passed"] and fall["margin"] == pytest.approx(fall["value"] - fall["bound"])
    steps = dict(one["funnel"])
    assert (steps["asked"], steps["judged"], steps["right"], steps["chosen"]) == (21, 20, 11, 10)
    assert zero["fit"]["portions"]["seed_thoughts"]["num_examples"] == 4
    assert run["phases"]["base"] == {"start engines": [9.0, 0.0, 0.0]}
    assert run["phases"]["0"] == {"train": [30.0, 15.0, 30.0]}
    assert len(run["steps"]["rows"]) == 20 and run["starts"][0]["versions"]["torch"]


def test_what_a_fit_read_is_marked_as_the_trainer_lays_it_out(report):
    fit = read_data(report, "run")["fits"]["1"]
    shown = read_data(report, f"{fit['folder']}/shown")
    trace = next(e for e in shown if e["kind"] == "picture_traces")
    marks = [mark for mark, _, _ in trace["spans"]]
    assert marks == ["text", "image", "text", "label"] and trace["weight"] == 1.5
    lengths = {mark: num for mark, _, num in trace["spans"]}
    assert lengths["label"] == trace["targets"] and lengths["image"] > 1
    assert sum(num for _, _, num in trace["spans"]) == trace["tokens"]
    seed = next(e for e in shown if e["kind"] == "seed_thoughts")
    assert [mark for mark, _, _ in seed["spans"]] == ["text", "label"] and not seed["why"]
    assert seed["spans"][1][1].startswith("<think>\n3 + 4 = 7\n</think>\n7<")
    assert "3 + 4?" in seed["spans"][0][1]
    gone = next(e for e in shown if e["id"].startswith("1/lost"))
    assert gone["images"][0][1].endswith("teal.png")


def test_which_rollouts_a_fit_read_is_said_by_problem_and_sample(report):
    chosen = read_data(report, "fit-2-1/chosen")
    assert chosen["1"]["half"] == {"0": 1.5, "2": 1.5} and chosen["1"][HOSTILE_ID].keys() == {
        "0", "2", "4"
    }  # fmt: skip
    assert "none" not in chosen["1"] and read_data(report, "fit-1-1/chosen") == {}


def test_rewards_and_groups_of_reinforcement_are_shown(tmp_path):
    run = make_run(
        tmp_path, "train.objective=grpo", "train.restart_from=previous",
        "explore.sampling.temperature=1.0", rounds={1: {"a": "cwc"}},
    )  # fmt: skip
    folder = write_report(run).page.parent
    rows = read_data(folder, "r1-1/rows-0")
    problems = read_data(folder, "r1-1/problems")
    start = problems["first"][problems["id"].index("a")]
    assert rows["reward"][start : start + 3] == [1.0, 0.0, None]  # doubted: in no group
    assert read_data(folder, "run")["is_reinforcement"]


# -- files -----------------------------------------------------------------------------------------


def test_no_text_ends_its_script_and_all_files_are_ascii(report):
    for path in report.rglob("data/**/*.js"):
        content = path.read_bytes()
        assert content.isascii() and b"<" not in content and content.count(b"\n") == 1


def test_a_number_that_is_none_becomes_null():
    assert dump({"a": [float("nan"), float("inf"), 1.5], "b": "</script>"}) == (
        '{"a":[null,null,1.5],"b":"\\u003c/script>"}'
    )


def test_a_second_writing_writes_only_what_is_new(run_dir, report):
    first = (report / "data/r1-1/texts-0.js").stat().st_mtime_ns
    again = write_report(run_dir)
    assert (report / "data/r1-1/texts-0.js").stat().st_mtime_ns == first
    app = sum(
        path.is_file() for path in Path(background.__file__).parent.joinpath("app").rglob("*")
    )
    assert again.num_files == app + 2  # run.js and the state


def test_new_rollouts_and_new_verdicts_are_written_anew(tmp_path, capsys):
    run = make_run(tmp_path, rounds={1: {"a": "cw"}})
    folder = write_report(run).page.parent
    before = read_data(folder, "r1-1/rows-0")["status"]
    assert traces(["regrade", str(run), "--write", "--workers", "1"]) == 0
    write_report(run)
    after = read_data(folder, "r1-2/rows-0")["status"]
    assert before != after
    assert texts(folder, 1)[0]["status"] == STATUSES[after[0]]
    assert any(row["old_verdicts"] for row in texts(folder, 1))


def test_without_time_it_says_what_is_left_and_the_next_writing_goes_on(tmp_path):
    run = make_run(tmp_path)
    said = write_report(run, seconds=0.0)
    assert said.left and said.num_rollouts < 36
    run_js = read_data(said.page.parent, "run")
    assert run_js["left"] == list(said.left) and run_js["rounds"]
    whole = write_report(run)
    assert whole.left == () and whole.num_rollouts == 36 and len(texts(whole.page.parent, 1)) == 21


def statuses(folder, round=1):
    known = read_data(folder, "run")["stored"][str(round)]
    rows = read_data(folder, f"{known['folder']}/rows-0")["status"]
    assert len(rows) == known["rows"]
    assert [row["status"] for row in texts(folder, round)] == [STATUSES[s] for s in rows]
    return [STATUSES[status] for status in rows]


def test_a_folder_with_the_report_of_another_run_is_written_anew(tmp_path):
    out = tmp_path / "out"
    for name, letters in (("a", "cw"), ("b", "wc")):
        (tmp_path / name).mkdir()
        run = make_run(tmp_path / name, rounds={1: {"p": letters}})
        write_report(run, out)
        own = [LETTERS[letter] for letter in letters]
        assert statuses(out)[-2:] == own
        fit = read_data(out, "run")["fits"]["1"]
        right = str(letters.index("c"))
        assert read_data(out, f"{fit['folder']}/chosen")["1"]["p"].keys() == {right}
    left = {path.name for path in (out / "data").iterdir() if path.is_dir()}
    assert left == {"r1-1", "fit-1-1", "fit-2-1"}  # nothing of the other run


def test_a_writing_that_is_killed_midway_leaves_a_whole_page_and_what_was_complete(
    tmp_path, monkeypatch
):
    run = make_run(tmp_path, rounds={1: {"a": "cw"}, 2: {"b": "wwc"}})
    folder = write_report(run).page.parent
    before = statuses(folder, 1)
    ledger = Ledger.reopen(run)
    buffer = ReplayBuffer.open(run, owner=ledger.wandb_id)
    for round, id in ((1, "a"), (2, "b")):
        (first, *_), *_ = buffer.find(round, id)
        more = replace(first.rollout, sample_index=9)
        buffer.add(round, replace(first, rollout=more))
    buffer.flush()
    ledger.close()
    written = rollouts._write_texts

    def killed(folder, reader, table, known, deadline):
        if known["folder"].startswith("r1-"):
            raise KeyboardInterrupt  # its columns are there, its texts are not
        written(folder, reader, table, known, deadline)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(rollouts, "_write_texts", killed)
        write_report(run)
    assert statuses(folder, 1) == before and len(statuses(folder, 2)) == 4
    assert read_data(folder, "run")["left"] == ["round 1"]
    kept = (folder / "data/r2-2/rows-0.js").stat().st_mtime_ns
    assert write_report(run).left == () and len(statuses(folder, 1)) == len(before) + 1
    assert (folder / "data/r2-2/rows-0.js").stat().st_mtime_ns == kept
    left = {path.name for path in (folder / "data").glob("r*-*")}
    assert left == {"r1-2", "r1-3", "r2-2"}  # the first may be another writer's
    os.utime(folder / "data/r1-2", (0, 0))
    write_report(run)
    assert not (folder / "data/r1-2").exists() and (folder / "data/r1-3").exists()


class Over(Deadline):
    """The time is always over: one page is written at a time."""

    is_over = True


def test_a_round_of_many_pages_goes_on_where_the_time_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("virgo_ray.report.rollouts.PAGE_ROWS", 4)
    run = make_run(tmp_path, rounds={1: {f"p{n}": "cwc" for n in range(9)}})
    reader, folder = find_run(str(run)).reader(), Folder(tmp_path / "out")
    known, written = {}, [0]
    while not known or known["written"] < known["rows"]:
        known = write_round(folder, reader, 1, known, Over())
        written.append(known["written"])
    assert written == sorted(set(written)) and written[-1] == 33 and not known["has_pictures"]
    pages = [read_data(folder.root, f"r1-1/texts-{n}") for n in range(len(known["pages"]))]
    assert [page["first"] for page in pages] == known["pages"] == written[:-1]
    keys = [(row["problem_id"], row["sample_index"]) for page in pages for row in page["rows"]]
    assert len(keys) == len(set(keys)) == 33 and keys == sorted(keys)
    known = write_round(folder, reader, 1, known, Deadline())
    assert known["has_pictures"] and list((folder.root / "pictures").iterdir())


def test_metrics_are_read_on_and_stay_bounded(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = {"kind": "train", "round": 1, "train/loss": 1.0}

    def write(num, mode):
        with path.open(mode) as file:
            file.writelines(json.dumps({**record, "train_step": n}) + "\n" for n in range(num))

    write(3 * MOST_POINTS, "w")
    digest = read_on(path, {})
    assert digest["offset"] == path.stat().st_size and len(digest["steps"]) <= MOST_POINTS
    write(10, "a")
    assert read_on(path, digest)["seen"] == 3 * MOST_POINTS + 10
    write(5, "w")  # another file
    assert read_on(path, digest)["seen"] == 5


# -- beside a run ----------------------------------------------------------------------------------


def test_the_writer_beside_a_run_writes_and_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "KILL_S", 500.0)
    run, said = make_run(tmp_path, rounds={1: {"a": "cw"}}), []
    writer = ReportWriter(run, said.append)
    writer.begin()
    writer._wait()
    assert said == [] and read_data(run / "report", "run")["stored"]["1"]["written"] == 8


def test_a_report_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(background, "KILL_S", 500.0)
    writer = ReportWriter(tmp_path, said.append)  # no run
    writer.finish()
    assert len(said) == 1 and "exit code 2" in said[0] and "the run goes on" in said[0]
    assert "no config.yaml" in (tmp_path / "logs/report.log").read_text()


def test_a_writer_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "KILL_S", 0.2)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    said = []
    writer = ReportWriter(tmp_path, said.append)
    writer._process = subprocess.Popen(sleeper)
    writer._wait()
    assert "exit code -9" in said[0]


def test_a_writer_that_hangs_holds_no_later_report_up(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "KILL_S", 0.0)
    said = []
    writer = ReportWriter(tmp_path, said.append)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    writer._process, writer._began = sleeper, time.monotonic()
    writer.begin()
    assert "exit code -9" in said[0] and writer._process is not sleeper
    writer._process.kill()
    writer._process.wait(60)


def test_an_example_that_the_model_of_now_cannot_read_ends_no_report(tmp_path, monkeypatch):
    def refused(self, example):
        raise KeyError("a token")

    monkeypatch.setattr(training.Reading, "spans", refused)
    folder = write_report(make_run(tmp_path, rounds={})).page.parent
    fit = read_data(folder, "run")["fits"]["0"]
    assert {e["why"] for e in read_data(folder, f"{fit['folder']}/shown")} == {"'a token'"}


def test_a_search_counts_samples_alone(run_dir):
    reader = find_run(str(run_dir)).reader()
    found = [*reader.find_text("cats in easy", 500)]
    assert len(found) == 6 and not any(key[1].endswith("#blank") for key in found)


def test_the_commit_of_a_checkout_is_found_also_in_a_worktree(tmp_path):
    def git(*words, at):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout

    first = tmp_path / "first"
    first.mkdir()
    git("init", "-q", at=first)
    git("commit", "-q", "--allow-empty", "-m", "x", at=first)
    git("worktree", "add", "-q", str(tmp_path / "second"), "-b", "other", at=first)
    head = git("rev-parse", "HEAD", at=first).strip()
    assert find_commit(first) == find_commit(tmp_path / "second") == head
    git("pack-refs", "--all", at=first)
    assert find_commit(first) == head and find_commit(tmp_path) == ""


def test_a_run_that_is_going_on_can_be_looked_at(tmp_path):
    run = make_run(tmp_path, rounds={1: {"a": "cw"}})
    ledger = Ledger.reopen(run)
    buffer = ReplayBuffer.open(run, owner=ledger.wandb_id)
    (first, _), *_ = buffer.find(1, "a")
    buffer.add(2, first)
    buffer.flush()
    assert first.verdict.status is Status.CORRECT
    stored = read_data(write_report(run).page.parent, "run")["stored"]
    assert stored["2"]["rows"] == 1
    ledger.close()
