"""`python -m virgo_ray.traces`: what is stored, shown, exported, judged again and compared."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import lance
import pytest
from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import (
    AnswerType,
    FitReport,
    Judged,
    Problem,
    Rollout,
    Status,
    Tally,
    Verdict,
    Weights,
)
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.traces.__main__ import main
from virgo_ray.traces.table import printable
from virgo_ray.verify.item import VERIFIER_VERSION

STATUSES = {"c": Status.CORRECT, "w": Status.WRONG, "t": Status.TIMEOUT, "n": Status.NO_ANSWER}


def rollout_of(folder, id, index, letter, verifier=VERIFIER_VERSION, gold="7"):
    """A rollout whose text says 7 if it was judged correct, and 6 if not."""
    status = STATUSES[letter]
    problem = Problem(
        id, f"How many {id}?", gold, (str(folder / "cat.png"),), f"zoo/{id[0]}", AnswerType.NUMBER
    )
    said = "7" if status is Status.CORRECT else "6"
    text = f"<think>\nWait. I count.\n</think>\nThe answer is \\boxed{{{said}}}."
    ids = tuple(range(20 + index))
    rollout = Rollout(problem, index, text, ids, "stop", 1, {"temperature": 0.8}, 0.5)
    return Judged(rollout, Verdict(status, said, "boxed", AnswerType.NUMBER, verifier, 0.5))


@pytest.fixture
def run_dir(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "cat.png")
    return make_run(tmp_path, {1: {"a": "cc", "b": "cw", "d": "ww"}, 2: {"a": "wc", "b": "ww"}})


def make_run(folder, rounds, name="run", verifier=VERIFIER_VERSION, finished=True):
    cfg = load_config("configs/tiny.yaml", [f"run_dir={folder}/{name}"])
    ledger = Ledger.open(cfg, Weights(0, "base"))
    buffer = ReplayBuffer.open(folder / name, owner=ledger.wandb_id)
    if finished:
        commit_round(ledger, 0, buffer.seal())
    for t, problems in rounds.items():
        for id, letters in problems.items():
            for index, letter in enumerate(letters):
                buffer.add(t, rollout_of(folder, id, index, letter, verifier))
        if finished:
            commit_round(ledger, t, buffer.seal())
    buffer.flush()
    ledger.close()
    return folder / name


def commit_round(ledger, t, version):
    ledger.commit_tally(t, version, Tally(accepted=0))
    ledger.commit_fit(t, FitReport(Weights(t + 1, f"w{t}"), 1, 1, 1, 1, 2.0, 1.0, 1.0))


def output(capsys, *arguments):
    """What a command that ends well prints."""
    assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def error(capsys, code, *arguments):
    assert main([str(a) for a in arguments]) == code
    return capsys.readouterr().err


# -- stats and show --------------------------------------------------------------------------------


def test_stats_count_by_round_source_status_and_pass_rate(run_dir, capsys):
    found = json.loads(output(capsys, "stats", run_dir, "--json"))
    first, total = found["rounds"]["1"], found["total"]
    assert (first["asked"], first["accepted"], first["accept_rate"]) == (6, 3, 0.5)
    assert (first["statuses"]["correct"], first["statuses"]["wrong"]) == (3, 3)
    assert first["sources"]["zoo/b"] == {"asked": 2, "accepted": 1, "accept_rate": 0.5}
    assert first["pass_rates"] == {
        "0": 1, "up to 1/4": 0, "up to 1/2": 1, "up to 3/4": 0, "up to 1": 1, "not judged": 0,
    }  # fmt: skip
    assert total["asked"] == 10 and total["num_problems"] == 3 and total["num_solved"] == 2
    assert total["pass_rates"]["up to 3/4"] == 1  # a: 3 of 4 over both rounds
    assert total["verifier_versions"] == {VERIFIER_VERSION: 10}
    only = json.loads(output(capsys, "stats", run_dir, "--round", 2, "--json"))
    assert only["total"]["asked"] == 4 and list(only["rounds"]) == ["2"]


def test_tables_are_plain_where_there_is_no_terminal(run_dir, capsys):
    shown = output(capsys, "stats", run_dir)
    assert "round 1" in shown and "zoo/b" in shown and shown.isascii()


def test_a_list_is_filtered_and_paged(run_dir, capsys):
    def listed(*options):
        found = json.loads(output(capsys, "list", run_dir, "--json", *options))
        keys = [(r["round"], r["problem_id"], r["sample_index"]) for r in found["rollouts"]]
        assert len(keys) <= found["total"]
        return found["total"], keys

    assert listed("--status", "wrong", "--pass-rate", "0..0.25") == (
        4, [(1, "d", 0), (1, "d", 1), (2, "b", 0), (2, "b", 1)],
    )  # fmt: skip
    assert listed("--round", "2", "--source", "zoo/a", "--status", "correct") == (1, [(2, "a", 1)])
    assert listed("--problem", "b", "--pass-rate", "0.5") == (2, [(1, "b", 0), (1, "b", 1)])
    assert listed("--length", "21..", "--round", "1")[1] == [(1, "a", 1), (1, "b", 1), (1, "d", 1)]
    assert listed("--phase", "blank") == (0, [])
    total, first = listed("--limit", "4")
    pages = [*first, *listed("--limit", "4", "--offset", "4")[1], *listed("--offset", "8")[1]]
    assert total == 10 and len(set(pages)) == len(pages) == 10
    said = output(capsys, "list", run_dir, "--limit", "3")
    assert "1 to 3 of 10 rollouts; --offset 3 shows what follows" in said
    with pytest.raises(SystemExit, match="2"):
        main(["list", str(run_dir), "--pass-rate", "1..0"])
    assert "expected LOW..HIGH" in capsys.readouterr().err


def test_show_gives_the_picture_the_verdict_and_the_text_of_one_rollout(run_dir, capsys):
    shown = output(capsys, "show", run_dir, 1, "b", 1)
    assert str(run_dir.parent / "cat.png") in shown and "wrong: answer '6' by rule boxed" in shown
    assert "The answer is \\boxed{6}." in shown
    listed = output(capsys, "show", run_dir, 1, "b")
    assert "correct" in listed and "wrong" in listed and "samples" in listed
    (found,) = json.loads(output(capsys, "show", run_dir, 1, "b", 1, "--json"))
    assert found["verdict"]["status"] == "wrong" and found["old_verdicts"] == []


def test_show_says_what_is_there_instead(run_dir, capsys):
    assert "samples [0, 1] in round 1" in error(capsys, 1, "show", run_dir, 1, "b", 7)
    assert "rounds [1, 2] are stored" in error(capsys, 1, "show", run_dir, 1, "it's")


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    assert printable("a\x1b]0;title\x07b\x9b2J\nc\td") == "a]0;titleb2J\nc\td"
    assert printable("a\u202eb\u2066c\u2069\u202a") == "abc"  # shown in another order


def test_probes_are_found_by_the_pass_rate_of_their_problem(tmp_path, capsys):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "cat.png")
    run = make_run(tmp_path, {1: {"a": "cw", "a#blank": "w", "b": "ww", "b#blank": "w"}})

    def listed(band):
        options = ("--json", "--phase", "blank", "--pass-rate", band)
        return [r["problem_id"] for r in json.loads(output(capsys, "list", run, *options))
                ["rollouts"]]  # fmt: skip

    assert listed("0..1") == ["a#blank", "b#blank"] and listed("0.5") == ["a#blank"]


def test_a_store_is_found_by_its_own_address_too(run_dir, capsys):
    found = json.loads(output(capsys, "stats", run_dir / "buffer.lance", "--json"))
    assert found["total"]["asked"] == 10


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert "no directory" in error(capsys, 2, "stats", tmp_path / "nowhere")
    assert "there is no replay buffer" in error(capsys, 1, "stats", tmp_path)


def test_a_run_that_goes_on_can_be_looked_at(run_dir, capsys):
    holder = Ledger.reopen(run_dir)
    assert json.loads(output(capsys, "stats", run_dir, "--json"))["total"]["asked"] == 10
    holder.close()


# -- export ----------------------------------------------------------------------------------------


def test_jsonl_holds_accepted_traces_with_their_sampled_ids(run_dir, tmp_path, capsys):
    assert "4 rollouts" in output(
        capsys, "export", run_dir, "--format", "jsonl", "--out", tmp_path / "a.jsonl"
    )
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(r["round"], r["problem_id"], r["sample_index"]) for r in rows] == [
        (1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 1),
    ]  # fmt: skip
    assert rows[1]["token_ids"] == list(range(21)) and rows[0]["sampling"] == {"temperature": 0.8}
    for options, num in ((["--all"], 10), (["--round", 1], 3), (["--round", 1, "--all"], 6)):
        out = tmp_path / f"{num}.jsonl"
        output(capsys, "export", run_dir, "--format", "jsonl", "--out", out, *options)
        assert len(out.read_text().splitlines()) == num


def test_only_what_a_round_was_trained_on_can_be_exported(run_dir, tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    output(capsys, "export", run_dir, "--format", "jsonl", "--out", out, "--chosen", 1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2  # the two thoughts about a are one: selection keeps distinct ones


def exported(run, capsys, round):
    """What the export of a training set prints, and its keys."""
    out = run.parent / "chosen.jsonl"
    words = ["--format", "jsonl", "--out", out, "--overwrite", "--chosen", round]
    said = output(capsys, "export", run, *words)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return said, {(r["round"], r["problem_id"], r["sample_index"]) for r in rows}


def test_a_key_that_changed_later_changes_no_earlier_training_set(run_dir, capsys):
    before = [exported(run_dir, capsys, t) for t in (1, 2)]
    changed = ["select.last_rounds=1", "train.seed_share=0.9"]
    Ledger.open(
        load_config("configs/tiny.yaml", [f"run_dir={run_dir}", *changed]), Weights(0, "base")
    ).close()
    assert [exported(run_dir, capsys, t) for t in (1, 2)] == before


def test_what_happened_to_the_store_after_a_round_is_told(run_dir, capsys):
    assert "note:" not in exported(run_dir, capsys, 2)[0]
    ledger = Ledger.reopen(run_dir)
    buffer = ReplayBuffer.open(run_dir, owner=ledger.wandb_id)
    assert buffer.set_aside(["d"]) == 2
    ledger.commit_regraded(buffer.version, buffer.seal(), {})
    ledger.commit_repaired(buffer.seal(), ["a part"])
    buffer.add(3, rollout_of(run_dir.parent, "b", 0, "c"))
    buffer.flush()
    commit_round(ledger, 3, buffer.seal())
    ledger.close()
    said, _ = exported(run_dir, capsys, 2)
    for what in ("traces regrade", "traces repair", "data.accept_changes"):
        assert f"({what}) after round 2 was explored: these traces can differ" in said
    assert "note:" not in exported(run_dir, capsys, 3)[0]


def test_a_dataset_holds_the_pictures_themselves(run_dir, tmp_path, capsys):
    output(capsys, "export", run_dir, "--format", "hf", "--out", tmp_path / "hf")
    (tmp_path / "cat.png").unlink()
    found = datasets.load_from_disk(str(tmp_path / "hf"))
    assert found[0]["images"][0].size == (8, 4) and found[0]["gold"] == "7"
    assert found["token_ids"][1] == list(range(21))


# -- regrade ---------------------------------------------------------------------------------------


def misjudged(folder):
    """A run judged by an older verifier: sample 0 of `b` was said to be wrong, and is correct."""
    Image.new("RGB", (8, 4), "red").save(folder / "cat.png")
    run = make_run(folder, {1: {"a": "cw"}}, verifier="0")
    wrong = rollout_of(folder, "b", 0, "c", "0")
    verdict = Verdict(Status.WRONG, "seven", "stated", AnswerType.NUMBER, "0", 0.5)
    buffer, ledger = ReplayBuffer.open(run), Ledger.reopen(run)
    buffer.add(2, Judged(wrong.rollout, verdict))
    commit_round(ledger, 2, buffer.seal())
    ledger.close()
    return run


def test_a_regrade_shows_what_changes_and_writes_nothing_unasked(tmp_path, capsys):
    run = misjudged(tmp_path)
    version = lance.dataset(str(run / "buffer.lance")).version
    files = {p: p.read_bytes() for p in run.glob("*.*") if p.is_file()}
    found = json.loads(output(capsys, "regrade", run, "--json", "--workers", 1))
    assert (found["rollouts"], found["changed"]) == (3, 3)  # all carry the older verifier's number
    assert found["transitions"] == [{"from": "wrong", "to": "correct", "rollouts": 1}]
    assert found["accepted"]["2"] == {"before": 0, "after": 1}
    assert lance.dataset(str(run / "buffer.lance")).version == version
    assert {p: p.read_bytes() for p in files} == files


def test_a_written_regrade_keeps_the_old_verdicts_and_is_in_the_ledger(tmp_path, capsys):
    run = misjudged(tmp_path)
    before = lance.dataset(str(run / "buffer.lance")).version
    shown = output(capsys, "regrade", run, "--write", "--workers", 2)
    assert "seven" in shown and "correct" in shown
    (found,) = json.loads(output(capsys, "show", run, 2, "b", 0, "--json"))
    assert (found["verdict"]["status"], found["verdict"]["answer"]) == ("correct", "7")
    assert found["verdict"]["verifier_version"] == VERIFIER_VERSION
    (old,) = found["old_verdicts"]
    assert (old["status"], old["answer"], old["verifier_version"]) == ("wrong", "seven", "0")
    assert "before    wrong: answer 'seven'" in output(capsys, "show", run, 2, "b", 0)
    ledger = Ledger.reopen(run)
    (entry,) = ledger.regrades
    assert entry["before"] == before < entry["after"] == ledger.committed_buffer_version
    assert entry["changed"] == 3 and {before, entry["after"]} <= set(ledger.buffer_versions)
    buffer = ReplayBuffer.open(run, ledger.committed_buffer_version)
    assert buffer.judged_counts([1, 2]) == {"a": (1, 2), "b": (1, 1)}
    assert len(list(buffer.judged([1, 2]))) == 3
    ledger.close()
    again = json.loads(output(capsys, "regrade", run, "--json", "--write", "--workers", 1))
    assert again["changed"] == 0
    reopened = Ledger.reopen(run)
    assert len(reopened.regrades) == 1
    reopened.close()


@pytest.mark.parametrize("num", [5, 60])
def test_what_cannot_be_judged_now_keeps_its_verdict(tmp_path, capsys, num):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "cat.png")
    run = make_run(tmp_path, {1: {"a": "c" * num}}, verifier="0")
    config = run / "config.yaml"
    before, verify, after = config.read_text().partition("\nverify:")
    after = after.replace("custom: null", "custom: http://127.0.0.1:9/grade", 1)
    broken = before + verify + after
    config.write_text(broken)
    if num == 5:
        found = json.loads(output(capsys, "regrade", run, "--json", "--write", "--workers", 1))
        assert (found["changed"], found["kept_because_not_judged"]) == (0, num)
    else:
        said = error(capsys, 1, "regrade", run, "--write", "--workers", 1)
        assert "could not be judged" in said
    left = json.loads(output(capsys, "show", run, 1, "a", "--json"))
    assert {entry["verdict"]["status"] for entry in left} == {"correct"}


def test_a_living_run_cannot_be_regraded(run_dir, capsys):
    holder = Ledger.reopen(run_dir)
    assert "is in use by process" in error(capsys, 1, "regrade", run_dir, "--write")
    holder.close()


def test_a_half_explored_round_is_refused(tmp_path, capsys):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "cat.png")
    run = make_run(tmp_path, {1: {"a": "cw"}}, finished=False)
    said = error(capsys, 1, "regrade", run, "--write", "--workers", 1)
    assert "round 1 was sampled in part" in said


def test_a_store_of_version_1_is_regraded(tmp_path, capsys):
    data = Path(__file__).parents[1] / "data/store_v1"
    run = make_run(tmp_path, {})
    shutil.rmtree(run / "buffer.lance")
    shutil.copytree(data / "buffer.lance", run / "buffer.lance")
    ledger = Ledger.reopen(run)
    commit_round(ledger, 1, 3)
    ledger.close()
    dry = json.loads(output(capsys, "regrade", run, "--json", "--workers", 1))
    wet = json.loads(output(capsys, "regrade", run, "--json", "--workers", 1, "--write"))
    assert dry == wet and dry["rollouts"] == 3
    (found,) = json.loads(output(capsys, "show", run, 1, "a", 1, "--json"))
    assert found["verdict"]["answer"] == "6" and found["old_verdicts"][0]["answer"] == "7"


# -- diff ------------------------------------------------------------------------------------------


def test_diff_of_two_rounds(run_dir, capsys):
    found = json.loads(output(capsys, "diff", run_dir, "--rounds", 1, 2, "--json"))
    problems = found["problems"]
    assert (problems["newly_solved"], problems["lost"]) == ([], ["b"])
    assert (problems["in_both"], problems["only_left"], problems["only_right"]) == (2, 1, 0)
    assert found["common_rollouts"] == 4 and found["mean_length_change"] == 0
    changes = {(c["from"], c["to"]): c["rollouts"] for c in found["transitions"]}
    assert changes == {
        ("correct", "correct"): 1, ("correct", "wrong"): 2, ("wrong", "wrong"): 1,
    }  # fmt: skip
    assert "lost: b" in output(capsys, "diff", run_dir, "--rounds", 1, 2)


def test_diff_of_two_runs(run_dir, tmp_path, capsys):
    other = make_run(tmp_path, {1: {"a": "cc", "b": "cc", "d": "cw"}}, name="other")
    found = json.loads(output(capsys, "diff", run_dir, other, "--json"))
    assert found["problems"]["newly_solved"] == ["d"] and found["common_rollouts"] == 6
    assert (found["left"]["asked"], found["right"]["asked"]) == (10, 6)
    same = json.loads(output(capsys, "diff", run_dir, other, "--rounds", 1, "--json"))
    assert same["left"]["asked"] == 6


def test_a_diff_that_names_too_little_or_nothing_is_refused(run_dir, capsys):
    assert "expected two rounds" in error(capsys, 2, "diff", run_dir)
    assert "expected one of rounds [1, 2]" in error(capsys, 1, "diff", run_dir, "--rounds", 1, 9)


def test_the_command_starts(run_dir):
    command = [sys.executable, "-m", "virgo_ray.traces", "stats", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "zoo/a" in done.stdout, done.stderr
