"""The evaluation command with fake engines: what is asked, kept, resumed, compared and refused."""

import json
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from flow_fakes import in_any_order
from PIL import Image
from safetensors.numpy import save_file

from virgo_ray.config import dump_config, load_config
from virgo_ray.errors import ConfigError, DataError, VerifierError
from virgo_ray.evaluate.__main__ import main, parse_args, split_benchmarks
from virgo_ray.evaluate.answers import read_answers
from virgo_ray.evaluate.command import EvaluationOptions, evaluate
from virgo_ray.evaluate.targets import find_target
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.dropped import DroppedNote
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import FitReport, Judged, Rollout, Status, Tally, Verdict, Weights

TINY = "configs/tiny.yaml"
SMALL = ("data.heldout.num=8", "evaluate.k=2")


class Stopped(BaseException):
    """What Ctrl-C or SIGKILL would be."""


class Machinery:
    """Engines and verifiers for any model; how a model answers depends on its directory's name.

    After `judged_left` verdicts it stops as a killed process would.
    """

    def __init__(self, judged_left=None):
        self.judged_left = judged_left
        self.asked = []
        self.opened_with = []

    @contextmanager
    def opened(self, cfg):
        self.opened_with.append(cfg)
        yield FakeRollouts(self, Path(cfg.model.path).name), FakeVerifiers(self)


class FakeRollouts:
    def __init__(self, machinery, model):
        self.machinery, self.model = machinery, model

    def sample(self, requests, sampling):
        for r in in_any_order(requests, 3, random.Random(0)):
            temperature = sampling.used_for(r.is_greedy).temperature
            self.machinery.asked.append((self.model, *r.key, temperature))
            rng = random.Random(f"{self.model}/{r.seed}/{temperature}")
            right = rng.random() < (0.8 if self.model == "good" else 0.3)
            text = r.problem.answer if right else rng.choice(["wrong", "cut"])
            tokens = tuple(range(rng.randint(1, 9)))
            yield Rollout(r.problem, r.sample_index, text, tokens, "stop", 0, is_greedy=r.is_greedy)


class FakeVerifiers:
    def __init__(self, machinery):
        self.machinery = machinery

    def judge(self, rollouts):
        for rollout in rollouts:
            if self.machinery.judged_left == 0:
                raise Stopped
            if self.machinery.judged_left is not None:
                self.machinery.judged_left -= 1
            statuses = {"wrong": Status.WRONG, "cut": Status.TRUNCATED}
            status = statuses.get(rollout.text, Status.CORRECT)
            yield Judged(rollout, Verdict(status, "" if status is Status.TRUNCATED else "a"))


@pytest.fixture
def good(tmp_path):
    """A checkpoint that is the bundled model under another name."""
    return str(shutil.copytree(TINY_DIRECTORY, tmp_path / "good"))


def run(out, *overrides, machinery=None, model=TINY, base=None, **wishes):
    """Evaluate as the command does; returns the report and what the engines were asked."""
    machinery = machinery or Machinery()
    config = TINY if model != TINY else None
    target = find_target(model, [*SMALL, *overrides], config, base)
    report = evaluate(
        target, EvaluationOptions(Path(out), **wishes), machinery.opened, lambda text: None
    ).as_json()
    assert json.loads((Path(out) / "report.json").read_text()) == json.loads(json.dumps(report))
    return report, machinery.asked


def figures(report):
    return report["models"][0]["benchmarks"]["heldout"]


def test_greedy_and_samples_of_every_problem_are_asked_once(tmp_path):
    report, asked = run(tmp_path / "out")
    assert len(asked) == len(set(asked)) == 8 * (1 + 2)
    assert sum(temperature == 0 for *_, temperature in asked) == 8
    found = figures(report)
    assert found["num_problems"] == 8 and set(found["pass_at"]) == {"1", "2"}
    assert sum(g["num_problems"] for g in found["by_category"].values()) == 8
    solved = [a for a, _ in read_answers(tmp_path / "out/answers/tiny.jsonl") if a.how == "greedy"]
    assert found["pass_at_1"]["value"] == sum(a.is_correct for a in solved) / 8
    page = (tmp_path / "out/report.md").read_text()
    assert "| tiny |" in page and "pass@1 by category" in page and "maj@2" in page
    assert (tmp_path / "out/predictions/tiny_heldout.tsv").is_file()


@pytest.mark.parametrize("judged", [0, 1, 7, 8, 15, 23])
def test_what_was_judged_before_a_stop_is_not_asked_again(judged, tmp_path):
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "out", machinery=Machinery(judged))
    file = tmp_path / "out/answers/tiny.jsonl"
    kept = {a.key for a, _ in read_answers(file)}
    assert len(kept) == judged and not (tmp_path / "out/report.json").exists()
    with open(file, "a") as f:
        f.write('{"id": "heldout/cut off in the mid')
    report, asked = run(tmp_path / "out")
    assert len(asked) == 24 - judged
    again = {(id, "sampled" if t else "greedy", sample) for _, id, sample, t in asked}
    assert not again & kept
    assert report == whole


def test_after_the_verifiers_alarm_what_was_not_judged_is_asked_again_and_others_stay(tmp_path):
    class Broken(FakeVerifiers):
        def judge(self, rollouts):
            for num, rollout in enumerate(rollouts):
                if num == 6:
                    raise VerifierError("3 of 6 rollouts could not be judged")
                status = Status.CORRECT if num < 3 else Status.ERROR
                yield Judged(rollout, Verdict(status, "a"))

    class Breaking(Machinery):
        @contextmanager
        def opened(self, cfg):
            yield FakeRollouts(self, "tiny"), Broken(self)

    data = tmp_path / "other.jsonl"
    data.write_text(json.dumps({"id": "x", "question": "?", "answer": "1"}))
    run(tmp_path / "out", benchmarks=(f"jsonl={data}",))
    file = tmp_path / "out/answers/tiny.jsonl"
    others = {a.key for a, _ in read_answers(file)}
    with pytest.raises(VerifierError):
        run(tmp_path / "out", machinery=Breaking())
    kept = {a.key for a, _ in read_answers(file)}
    assert others < kept and len(kept) == len(others) + 3
    _, asked = run(tmp_path / "out")
    assert len(asked) == 24 - 3


def test_a_finished_evaluation_starts_no_engine_and_more_samples_only_ask_for_those(tmp_path):
    first, _ = run(tmp_path / "out")
    machinery = Machinery()
    again, asked = run(tmp_path / "out", machinery=machinery)
    assert again == first and not asked and not machinery.opened_with
    more, asked = run(tmp_path / "out", num_samples=4)
    assert len(asked) == 16 and {sample for _, _, sample, _ in asked} == {2, 3}
    assert figures(more)["num_samples"] == 4
    fewer, asked = run(tmp_path / "out", num_samples=2)
    assert fewer == first and not asked


def test_other_prompts_limits_or_weights_under_the_same_name_are_refused(tmp_path, good):
    run(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"sampling.max_tokens: 192 -> 100"):
        run(tmp_path / "out", "evaluate.sampling.max_tokens=100")
    with pytest.raises(ConfigError, match=r"prompt.instruction: .* -> 'Think.'"):
        run(tmp_path / "out", "prompt.instruction=Think.")
    run(tmp_path / "other", model=good)
    save_file({}, Path(good) / "extra.safetensors")
    with pytest.raises(ConfigError, match=r"other, good was asked with other settings"):
        run(tmp_path / "other", model=good)
    report, asked = run(tmp_path / "out", "rollout.num_workers=1")  # how, not what
    assert figures(report)["num_problems"] == 8 and not asked


def test_a_problem_that_changed_is_refused(tmp_path):
    data = tmp_path / "a.jsonl"
    rows = [{"id": str(i), "question": f"What is {i}?", "answer": str(i)} for i in range(4)]
    data.write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "out", benchmarks=(f"jsonl={data}",))
    rows[2]["answer"] = "7"
    data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="'a/2' has changed"):
        run(tmp_path / "out", benchmarks=(f"jsonl={data}",))


def test_all_models_get_the_same_requests_and_the_base_is_compared_with(tmp_path, good):
    report, asked = run(tmp_path / "out", "data.heldout.num=40", model=good, base="tiny")
    per_model = {name: {a[1:] for a in asked if a[0] == name} for name in ("model", "good", "tiny")}
    assert per_model["good"] == per_model["tiny"] and len(per_model["good"]) == 120
    base, ours = report["models"]
    assert (base["label"], base["is_base"], ours["label"]) == ("tiny", True, "good")
    assert base["benchmarks"]["heldout"]["difference"] is None
    paired = ours["benchmarks"]["heldout"]["difference"]
    before, after = (m["benchmarks"]["heldout"]["outcomes"] for m in (base, ours))
    assert paired["num_problems"] == 40 and paired["test"] == "McNemar exact"
    assert paired["num_better"] == sum(after[i] > before[i] for i in before)
    values = [m["benchmarks"]["heldout"]["pass_at_1"]["value"] for m in (base, ours)]
    assert paired["value"] == pytest.approx(values[1] - values[0]) and paired["p_value"] < 0.05

    alone, asked = run(
        tmp_path / "alone", "data.heldout.num=40", model=good,
        compare=str(tmp_path / "out/report.json"),
    )  # fmt: skip
    assert alone["models"][0]["benchmarks"]["heldout"]["difference"] == paired
    assert {a[0] for a in asked} == {"good"}
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0\.8 -> 0\.5"):
        run(
            tmp_path / "third", "evaluate.sampling.temperature=0.5", model=good,
            compare=str(tmp_path / "out/report.json"),
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"expected the report\.json"):
        run(tmp_path / "third", compare=TINY)


def test_samples_alone_are_compared_by_their_shares(tmp_path, good):
    report, asked = run(tmp_path / "out", model=good, base="tiny", has_greedy=False, num_samples=4)
    assert all(temperature == 0.8 for *_, temperature in asked)
    found = report["models"][1]["benchmarks"]["heldout"]
    assert found["pass_at_1"]["value"] == pytest.approx(found["pass_at"]["1"])
    assert found["difference"]["test"].startswith("sign flips")


def test_rows_that_are_not_asked_are_counted_and_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "ok.png")
    rows = [
        {
            "id": "1",
            "question": "How many?",
            "answer": "2",
            "image": "ok.png",
            "difficulty": "easy",
        },
        {"id": "2", "question": "How many?", "answer": "2", "image": "missing.png"},
        {"id": "3", "question": "long " * 400, "answer": "2"},
        {
            "id": "4",
            "question": "Which?",
            "answer": "B",
            "options": ["x", "y"],
            "source": "s/logic",
        },
    ]
    (tmp_path / "zoo.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report, asked = run(tmp_path / "out", benchmarks=(f"jsonl={tmp_path}/zoo.jsonl",))
    assert {id for _, id, *_ in asked} == {"zoo/1", "zoo/4"}
    benchmark = report["benchmarks"]["zoo"]
    assert benchmark["num_problems"] == 2 and benchmark["num_in_quarantine"] == 2
    faults = (tmp_path / "out/data/quarantine.jsonl").read_text().splitlines()
    assert [json.loads(f)["kind"] for f in faults] == ["image missing", "too long"]
    found = report["models"][0]["benchmarks"]["zoo"]
    assert list(found["by_difficulty"]) == ["easy"] and list(found["by_category"]) == ["logic"]
    page = (tmp_path / "out/report.md").read_text()
    assert "2 problems; 2 bad rows in quarantine, not asked" in page


def test_a_published_benchmark_is_asked_whole_or_up_to_a_limit(tmp_path):
    path = f"mathvision={Path('tests/data/mathv/data.jsonl').resolve()}"
    wide = ("model.max_length=1024", "evaluate.k=1")
    few, asked = run(tmp_path / "few", *wide, benchmarks=(path,), limit=3, num_samples=0)
    assert len(asked) == few["benchmarks"]["mathvision"]["num_problems"] == 3
    assert "at most 3 of each source" in (tmp_path / "few/report.md").read_text()
    report, _ = run(tmp_path / "all", *wide, benchmarks=(path,), limit=9999, num_samples=0)
    rows = len(Path("tests/data/mathv/data.jsonl").read_text().splitlines())
    asked_or_bad = report["benchmarks"]["mathvision"]
    assert asked_or_bad["num_problems"] + asked_or_bad["num_in_quarantine"] == rows
    assert any("level" in name for name in figures_of(report, "mathvision")["by_difficulty"])


def figures_of(report, benchmark):
    return report["models"][0]["benchmarks"][benchmark]


def test_one_evaluation_at_a_time_in_a_directory(tmp_path):
    class Nested(Machinery):
        @contextmanager
        def opened(self, cfg):
            with pytest.raises(ConfigError, match="in use by process"):
                run(tmp_path / "out")
            with super().opened(cfg) as ports:
                yield ports

    run(tmp_path / "out", machinery=Nested())


# -- what is MODEL ---------------------------------------------------------------------------------


@pytest.fixture
def finished_run(tmp_path):
    """A run directory with two trained rounds, written by the real ledger."""
    run_dir = tmp_path / "toy"
    cfg = load_config(TINY, [f"run_dir={run_dir}", *SMALL])
    ledger = Ledger.open(cfg, Weights(0, str(TINY_DIRECTORY)))
    for version in (1, 2):
        path = shutil.copytree(TINY_DIRECTORY, run_dir / f"weights/v{version:04d}")
        weights = Weights(version, f"/elsewhere/weights/{path.name}")  # it was moved since
        ledger.commit_tally(version - 1, version, Tally())
        ledger.commit_fit(version - 1, FitReport(weights, 1, 1, 1, 1, 1.0, 1.0, 1.0))
    ledger.close()
    (run_dir / "config.yaml").write_text(dump_config(cfg))
    return run_dir


def test_a_run_is_its_final_checkpoint_or_every_round(finished_run):
    final = find_target(str(finished_run))
    assert [(m.label, Path(m.path).name) for m in final.models] == [("toy round 1", "v0002")]
    assert final.base is None and final.has_config and final.has_heldout
    every = find_target(str(finished_run), all_rounds=True)
    assert [m.label for m in every.models] == ["toy base", "toy round 0", "toy round 1"]
    assert every.base == every.models[0]
    with_base = find_target(str(finished_run), base="tiny")
    assert [m.label for m in with_base.models] == ["tiny", "toy round 1"]


def test_rounds_whose_weights_were_dropped_are_left_out_by_name(finished_run):
    gone = finished_run / "weights/v0001"
    DroppedNote("weights.keep_last=1 after round 1", "2026-01-02 03:04 UTC", 10, ()).save(gone)
    every = find_target(str(finished_run), all_rounds=True)
    assert [m.label for m in every.models] == ["toy base", "toy round 1"]
    (line,) = every.left_out
    assert line.startswith("toy round 0 is left out: ") and "weights.keep_last=1 after" in line
    assert find_target(str(finished_run)).left_out == ()
    with pytest.raises(ConfigError, match=r"v0001 was dropped by weights.keep_last=1"):
        find_target(str(gone))


def test_a_round_that_is_dropped_while_others_are_asked_is_left_out_by_name(finished_run, tmp_path):
    gone = finished_run / "weights/v0002"
    note = DroppedNote("weights.keep_last=1 after round 4", "2026-01-02 03:04 UTC", 10, ())

    class Dropping(Machinery):
        @contextmanager
        def opened(self, cfg):
            with super().opened(cfg) as ports:
                yield ports
            note.save(gone)

    said, options = [], EvaluationOptions(tmp_path / "e", num_samples=0)
    every = find_target(str(finished_run), all_rounds=True)
    report = evaluate(every, options, Dropping().opened, said.append)
    assert [m.model.label for m in report.models] == ["toy base", "toy round 0"]
    assert any(line.startswith("toy round 1 is left out: ") and "v0002" in line for line in said)
    (gone / "DROPPED").unlink()
    one = find_target(str(finished_run), base=str(finished_run / "weights/v0001"))
    options = EvaluationOptions(tmp_path / "f", num_samples=0)
    with pytest.raises(ConfigError, match=r"toy round 1 can no longer be asked: .*v0002 was drop"):
        evaluate(one, options, Dropping().opened, said.append)


def test_a_checkpoint_of_a_run_is_asked_as_the_run_asks(finished_run, good):
    target = find_target(str(finished_run / "weights/v0001"), ["evaluate.k=3"])
    assert target.models[0].label == "toy/v0001" and target.cfg.model.max_length == 320
    assert target.has_config and target.cfg.evaluate.k == 3
    alone = find_target(good)
    assert not alone.has_config and not alone.has_heldout
    assert alone.cfg.evaluate.sampling.max_tokens == 8192 and alone.models[0].label == "good"


def test_a_config_that_says_only_what_an_evaluation_needs_is_enough(tmp_path, good):
    path = tmp_path / "e.yaml"
    path.write_text(
        "model: {max_length: 400}\nevaluate: {sampling: {max_tokens: 64}}\n"
        "benchmarks:\n  zoo: {reader: jsonl, path: zoo.jsonl}\n"
    )
    target = find_target(good, config=str(path))
    assert target.cfg.benchmarks["zoo"].path == "zoo.jsonl" and not target.has_heldout
    with pytest.raises(ConfigError, match=r"has no model\.path"):
        find_target(str(path))


def test_two_models_of_one_name_are_called_by_their_paths(tmp_path, good):
    other = shutil.copytree(TINY_DIRECTORY, tmp_path / "elsewhere" / "good")
    target = find_target(good, base=str(other))
    assert [m.label for m in target.models] == [str(other), good]


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/model"], "'no/such/model' is no directory"),
        (["tiny"], "no benchmark is named"),
        (["tiny", "--benchmarks", "mathvsita=x"], "expected READER=PATH"),
        (["tiny", "--benchmarks", "zoo"], "'zoo': expected READER=PATH"),
        (["tiny", "--benchmarks", "jsonl=nowhere.jsonl"], "knows 1024 positions"),
        ([TINY, "--benchmarks", "jsonl=nowhere.jsonl"], "nowhere.jsonl"),
        (["tiny", "--benchmarks", "jsonl=a/x.jsonl", "jsonl=b/x.jsonl"], "two are called 'x'"),
        (["tiny", "--all-rounds"], "'tiny' is no run directory"),
        ([TINY, "--config", TINY], "expected one"),
        ([TINY, "-n", "3", "--temperature", "0"], "-n 3 at temperature 0"),
        ([TINY, "-n", "0", "--no-greedy"], "leaves nothing to ask"),
        ([TINY, "--max-tokens", "400"], "leaves no room"),
        ([TINY, "--judge"], "--judge needs verify.judge"),
        ([TINY, "--compare", "nowhere.json"], "cannot be read"),
        ([TINY, "evaluate.kk=3"], "did you mean 'k'"),
        (["configs/nowhere.yaml"], "does not exist"),
    ],
)
def test_what_cannot_be_done_ends_with_code_2_before_anything_starts(
    arguments, message, tmp_path, capsys
):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["tiny", "-n", "-1"], ["tiny", "--limit", "0"], []])
def test_arguments_that_are_no_arguments_are_usage_errors(arguments):
    with pytest.raises(SystemExit) as ended:
        parse_args(arguments)
    assert ended.value.code == 2


def test_overrides_may_follow_the_benchmarks():
    args = parse_args(["m", "seed=1", "--benchmarks", "clevr=a/b", "name", "model.dtype=float32"])
    assert args.overrides == ["seed=1"]
    assert split_benchmarks(args.benchmarks) == (["clevr=a/b", "name"], ["model.dtype=float32"])
