"""A run killed while it evaluates asks for what is missing and ends with the same figures."""

import json
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from flow_fakes import WROTE, FakeRollouts, FakeVerifiers, Fuse, Killed, Process, end_state
from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.errors import TraceStoreError, VerifierError
from virgo_ray.evaluate.answers import GREEDY, AnswerFile, read_answers
from virgo_ray.records import Judged, Problem, Rollout, Status, Verdict

ROOT = Path(__file__).parents[2]
SMALL = (
    "rounds=0", "train.batch_size=4", "train.num_epochs=1", "evaluate.k=2", "gates=null",
    "evaluate.permute_options=1",
)  # fmt: skip
NUM_ANSWERS = 3 + 2 + 1 + 2 + 3 * 2  # greedy, blanked, permuted, probes, samples
IN_FLIGHT = 2  # sampled and not judged yet, as the fakes do it


@pytest.fixture
def folder():
    """In memory where that is possible: a run commits some ten times to disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@cache
def resolved(overrides):
    return load_config(str(ROOT / "configs/tiny.yaml"), [*SMALL, *overrides])


def process(folder, name, fuse=None, order_seed=0, verifiers=FakeVerifiers, overrides=()):
    """A start of the run in `folder / name`, over every kind of held-out problem."""
    picture = folder / "pictures" / "a.png"
    if not picture.exists():
        picture.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(picture)
    heldout = [
        Problem("h0", "Which?", "B", (str(picture),), "choices", options=("red", "blue", "green")),
        Problem("h1", "How many?", "4", (str(picture),), "counts"),
        Problem("h2", "What was it?", "9"),
    ]
    probes = {"perception": [Problem("e", "Red?", "yes")], "text": [Problem("t", "2 + 2?", "4")]}
    cfg = resolved(overrides).model_copy(update={"run_dir": f"{folder}/{name}"})
    return Process(
        cfg, fuse or Fuse(), order_seed, verifiers=verifiers, heldout=heldout, probes=probes
    )


def kept(start):
    """{(version, is it greedy, id, sample): Answer} of all answers in the run directory."""
    found = {}
    for path in sorted(Path(start.cfg.run_dir).glob("heldout/v*/answers.jsonl")):
        version = int(path.parent.name[1:])
        for answer, _ in read_answers(path):
            key = (version, answer.how == GREEDY, answer.id, answer.sample)
            assert key not in found, f"{key} is kept twice"
            found[key] = answer
    return found


def killed(start):
    """Where it died."""
    with pytest.raises(Killed) as caught:
        start.run()
    return str(caught.value)


def cut_last_line(run_dir, how):
    """What SIGKILL or a power cut may leave of it: "newline" cuts only that, "half" more."""
    files = sorted(Path(run_dir).glob("heldout/v*/answers.jsonl"))
    if how and files and (data := files[-1].read_bytes()):
        start = data[:-1].rfind(b"\n") + 1
        files[-1].write_bytes(data[:-1] if how == "newline" else data[: (start + len(data)) // 2])


# -- kills -----------------------------------------------------------------------------------------


def test_every_kind_of_answer_is_asked_once_and_kept_by_version(folder):
    start = process(folder, "run").run()
    assert len(start.rollouts.asked) == len(set(start.rollouts.asked)) == 2 * NUM_ANSWERS
    assert set(kept(start)) == set(start.rollouts.asked)
    assert Counter(version for version, *_ in kept(start)) == {0: NUM_ANSWERS, 1: NUM_ANSWERS}
    ids = {id for _, _, id, _ in kept(start)}
    assert ids == {"h0", "h1", "h2", "h0#blank", "h1#blank", "h0~p1", "e#perception", "t#text"}
    assert not start.said


def kind_by_kind(self, requests, sampling):
    """As earlier versions asked: first all greedy requests, then the others, in calls of their own
    whose sampling says it all."""
    for is_greedy in (True, False):
        own = [replace(r, is_greedy=False) for r in requests if r.is_greedy == is_greedy]
        for rollout in FakeRollouts.sample(self, own, sampling.used_for(is_greedy)):
            yield replace(rollout, is_greedy=is_greedy)


@pytest.mark.parametrize("k", [1, 2])
def test_all_kinds_are_asked_in_one_call_and_give_what_each_gives_alone(folder, k, monkeypatch):
    calls = []

    class Counting(FakeRollouts):
        def sample(self, requests, sampling):
            calls.append([(r.problem.id, r.is_greedy) for r in requests])
            return super().sample(requests, sampling)

    class KindByKind(FakeRollouts):
        sample = kind_by_kind

    overrides = (f"evaluate.k={k}", *["evaluate.sampling.temperature=0"] * (k == 1))
    monkeypatch.setattr("flow_fakes.FakeRollouts", Counting)
    together = process(folder, "together", order_seed=1, overrides=overrides).run()
    assert len(calls) == 2  # of the base and of the round
    assert calls[0][: k + 2] == [("h0", True), *[("h0", False)] * k, ("h1", True)]
    monkeypatch.setattr("flow_fakes.FakeRollouts", KindByKind)
    apart = process(folder, "apart", overrides=overrides).run()
    assert end_state(together.cfg) == end_state(apart.cfg)
    assert kept(together) == kept(apart)


@pytest.mark.parametrize("torn", ["", "newline", "half"])
def test_killed_at_any_step_what_was_judged_is_not_asked_again(folder, torn):
    undisturbed = process(folder, "undisturbed").run()
    expected, steps = end_state(undisturbed.cfg), undisturbed.fuse.steps
    # Every step of both evaluations, and of what lies between them; every third with torn lines.
    for step in range(steps.index(f"{WROTE}ledger.json"), len(steps), 3 if torn else 1):
        first = process(folder, str(step), Fuse(step))
        message = killed(first)
        is_asking = "sample (" in message or "judge (" in message
        if is_asking:
            cut_last_line(first.cfg.run_dir, torn)
        before = kept(first)
        second = process(folder, str(step), order_seed=step).run()
        assert end_state(second.cfg) == expected, message
        assert not set(before) & set(second.rollouts.asked), message
        assert set(kept(second)) == set(undisturbed.rollouts.asked), message
        lost = len(first.rollouts.asked) - len(before)
        assert 0 <= lost <= IN_FLIGHT + (is_asking and torn == "half"), message
        num_asked = len(first.rollouts.asked) + len(second.rollouts.asked)
        assert num_asked == 2 * NUM_ANSWERS + lost, message


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_only_what_was_in_flight_is_asked_twice(folder, seed):
    undisturbed = process(folder, "undisturbed").run()
    rng = random.Random(seed)
    num_asked, num_starts = 0, 0
    for attempt in range(1000):
        start = process(folder, "run", Fuse(rng.randint(3, 14)), order_seed=attempt)
        try:
            start.run()
            break
        except Killed:
            num_starts += 1
        finally:
            num_asked += len(start.rollouts.asked)
    assert num_starts > 6
    assert 0 <= num_asked - 2 * NUM_ANSWERS <= IN_FLIGHT * num_starts
    assert end_state(start.cfg) == end_state(undisturbed.cfg)


def test_an_evaluation_killed_before_its_commit_asks_nothing_more(folder):
    undisturbed = process(folder, "undisturbed").run()
    steps = undisturbed.fuse.steps
    last = max(i for i, step in enumerate(steps) if step.startswith("judge"))
    assert steps[last + 1] == "before commit"
    killed(process(folder, "run", Fuse(last + 1)))
    again = process(folder, "run").run()
    assert not again.rollouts.asked
    assert again.said == [f"evaluation goes on: {NUM_ANSWERS} of {NUM_ANSWERS} answers are there"]
    assert end_state(again.cfg) == end_state(undisturbed.cfg)
    assert not process(folder, "run").run().rollouts.asked


# -- answers that are not this evaluation's --------------------------------------------------------


def stopped_in_the_last_evaluation(folder, name="run"):
    """(the start that was killed, the directory of its answers)."""
    steps = process(folder, f"{name}-undisturbed").run().fuse.steps
    own = [n for n, step in enumerate(steps) if not step.startswith(WROTE)]
    first = process(folder, name, Fuse(own[-12]))
    assert "judge" in killed(first) or "sample" in first.fuse.steps[-1]
    directory = Path(first.cfg.run_dir) / "heldout/v0001"
    assert 0 < sum(1 for _ in read_answers(directory / "answers.jsonl")) < NUM_ANSWERS
    return first, directory


def edited(*keys, value):
    def edit(directory):
        path = directory / "evaluation.json"
        content = json.loads(path.read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        path.write_text(json.dumps(content))

    return edit


def damaged(directory):
    (directory / "evaluation.json").write_text("{")


def without_identity(directory):
    (directory / "evaluation.json").unlink()


def published_anew(directory):
    """The same version, published again: its manifest is another file."""
    manifest = directory.parents[1] / "weights/v0001/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=3))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (edited("weights", "run", value="another"), "weights.run: 'another' -> 'tiny-"),
        (edited("weights", "version", value=2), "weights.version: 2 -> 1"),
        (published_anew, "weights.manifest: '"),
        (edited("protocol", "sampling", "top_p", value=0.5), "protocol.sampling.top_p: 0.5 -> "),
        (edited("protocol", "seed", value=7), "protocol.seed: 7 -> 0"),
        (edited("protocol", "verifier_version", value="0"), "protocol.verifier_version: '0' ->"),
        (edited("evaluate", "blank_image", value=False), "evaluate.blank_image: False -> True"),
        (edited("problems", value="others"), "problems: 'others' -> "),
        (damaged, "evaluation.json is damaged"),
        (without_identity, "evaluation.json is missing"),
    ],
)
def test_answers_of_other_weights_or_asked_otherwise_are_moved_aside(folder, change, why):
    first, directory = stopped_in_the_last_evaluation(folder)
    change(directory)
    answers = (directory / "answers.jsonl").read_bytes()
    again = process(folder, "run").run()
    assert len(again.rollouts.asked) == NUM_ANSWERS
    assert len(again.said) == 1 and why in again.said[0] and "other-v0001-1" in again.said[0]
    assert (directory.parent / "other-v0001-1/answers.jsonl").read_bytes() == answers
    undisturbed = process(folder, "run-undisturbed")
    assert end_state(first.cfg) == end_state(undisturbed.cfg)


def test_another_run_in_the_same_directory_takes_none_of_its_answers(folder):
    first, _ = stopped_in_the_last_evaluation(folder)
    run_dir = Path(first.cfg.run_dir)
    (run_dir / "ledger.json").unlink()
    for name in ("buffer.lance", "weights"):
        shutil.rmtree(run_dir / name)
    again = process(folder, "run").run()
    assert len(again.rollouts.asked) == 2 * NUM_ANSWERS
    assert len(again.said) == 2 and all("weights.run" in text for text in again.said)


def test_a_killed_run_may_be_moved_and_goes_on_with_its_answers(folder):
    first, _ = stopped_in_the_last_evaluation(folder)
    num_kept = sum(version == 1 for version, *_ in kept(first))
    run_dir = Path(first.cfg.run_dir)
    run_dir.rename(folder / "moved")
    run_dir.symlink_to(folder / "moved")  # the ledger names the weights by their old path
    again = process(folder, "moved").run()
    assert len(again.rollouts.asked) == NUM_ANSWERS - num_kept
    assert "goes on" in again.said[0]


# -- what cannot be judged, or not be stored -------------------------------------------------------


class Broken(FakeVerifiers):
    """From its fourth verdict on it cannot judge, until the alarm stops it."""

    def judge(self, rollouts):
        for num, judged in enumerate(super().judge(rollouts)):
            if num == 6:
                raise VerifierError("3 of 6 rollouts could not be judged")
            failed = Judged(judged.rollout, Verdict(Status.ERROR, reason="no sympy"))
            yield failed if num >= 3 else judged


def test_after_the_verifiers_alarm_what_was_not_judged_is_asked_again(folder):
    undisturbed = process(folder, "undisturbed").run()
    first = process(folder, "run", verifiers=Broken)
    with pytest.raises(VerifierError):
        first.run()
    before = kept(first)
    assert 0 < len(before) <= 3
    assert all(not answer.status.is_failure_to_judge for answer in before.values())
    again = process(folder, "run").run()
    assert not set(before) & set(again.rollouts.asked)
    assert end_state(again.cfg) == end_state(undisturbed.cfg)


def test_a_full_disk_is_a_clear_error(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.symlink_to("/dev/full")
    problem = Problem("p", "?", "4")
    file = AnswerFile(path, [problem])
    rollout = Rollout(problem, 0, "4", (1,), "stop", 0, is_greedy=True)
    with pytest.raises(TraceStoreError, match=r"answers\.jsonl could not be written.*No space"):
        file.add(Judged(rollout, Verdict(Status.CORRECT, "4")))
    assert ("p", GREEDY, 0) not in file
