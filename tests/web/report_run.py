"""A small run directory with all that a report shows, hostile texts included; no engine is started.

Base and round 0 without rollouts, round 1 explored and kept, round 2 explored and not evaluated.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import describe_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import (
    AnswerType,
    Evaluation,
    FitReport,
    Judged,
    Opinion,
    Problem,
    Rollout,
    SecondOpinion,
    Status,
    Tally,
    Verdict,
    Weights,
)
from virgo_ray.report.noting import note_fit
from virgo_ray.report.provenance import note_start
from virgo_ray.stats.tally import tally
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.train.pack import count_portions, pack

TINY = str(Path(__file__).parents[2] / "configs/tiny.yaml")
LETTERS = {
    "c": Status.CORRECT, "w": Status.WRONG, "t": Status.TRUNCATED, "n": Status.NO_ANSWER,
    "o": Status.TIMEOUT,
}  # fmt: skip
ROUNDS = {
    1: {"easy": "ccc", "half": "cwc", "lost": "ccw", "none": "wtn", "odd": "cow"},
    2: {"easy": "ccc", "half": "ccc", "lost": "www", "none": "www", "won": "cww"},
}
HOSTILE_ID = 'a/b?c=<b>&d#"e \u202e'
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "line\u2028separators\u2029and \u0000 \x1b[31m control",
    "\u202eright to left \u05d0\u05d1\u05d2 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "x" * 20_000,
    "${alert(1)} `); window.hacked = 1; (` \\u003c {{ 7 * 7 }}",
]
SHARES = {"num_problems": 40, "k": 4, "long_format_share": 1.0, "not_judged_share": 0.0}
BLANK = "#blank"


def make_run(folder: Path, *overrides: str, rounds=None, num_seeds: int = 4) -> Path:
    """A run in `folder/run`; `overrides` are those of its config."""
    cfg = load_config(TINY, [f"run_dir={folder}/run", *overrides])
    for name in ("teal.png", "gone.png"):
        Image.new("RGB", (64, 32), name.removesuffix(".png").replace("gone", "red")).save(
            folder / name
        )
    ledger = Ledger.open(cfg, Weights(0, describe_model("tiny")))
    ledger.commit_evaluation(None, evaluation("10" * 20), ())
    run_dir = folder / "run"
    buffer = ReplayBuffer.open(run_dir, owner=ledger.wandb_id)
    prompter = Prompter(cfg.model, cfg.prompt)
    note_start(run_dir)
    write_metrics(run_dir)
    commit(ledger, buffer, cfg, prompter, 0, [], num_seeds)
    ledger.commit_evaluation(0, evaluation("11" * 10 + "10" * 10), ())
    for t, problems in (ROUNDS if rounds is None else rounds).items():
        own = [*rollouts(folder, t, problems)]
        for judged in own:
            buffer.add(t, judged)
        commit(ledger, buffer, cfg, prompter, t, own, num_seeds)
        if t == 1:
            ledger.commit_evaluation(1, evaluation("1" * 36 + "0" * 4), ())
    ledger.close()
    (folder / "gone.png").unlink()
    return run_dir


def evaluation(solved):
    share = solved.count("1") / len(solved)
    figures = {**SHARES, "pass_at_1": share, "pass_at_k": min(1.0, share + 0.1), "maj_at_k": share}
    form = {"mean_thought_tokens": 100.0, "truncated_share": 0.05, "blank_image_pass_at_1": 0.1}
    whole = Evaluation(**figures, **form, num_blank=40)
    return replace(whole, per_source={"<i>zoo</i>": whole}, solved={"pass_at_1": solved})


def rollouts(folder, t, problems):
    for id, letters in {**problems, **({HOSTILE_ID: "cwcwcw"} if t == 1 else {})}.items():
        for index, letter in enumerate(letters):
            yield judged(folder, id, index, LETTERS[letter])
    if "easy" in problems:
        yield judged(folder, f"easy{BLANK}", 0, Status.CORRECT)


def judged(folder, id, index, status):
    is_hostile = id == HOSTILE_ID
    said = HOSTILE[index] if is_hostile else f"I count {index} cats in {id}."
    image = str(folder / ("gone.png" if id == "none" else "teal.png"))
    problem = Problem(
        id, HOSTILE[0] if is_hostile else f"How many cats are in {id}?", "7",
        (image,) if id != "odd" else (), "zoo/a" if id < "j" else "zoo/b", AnswerType.NUMBER,
    )  # fmt: skip
    text = f"<think>\n{said}\n</think>\nThe answer is \\boxed{{{index}}}. {said}"
    ids = tuple(random.Random(f"{id}{index}").choices(range(20, 60), k=30 + 10 * index))
    doubts = {"steps": SecondOpinion(Opinion.DOUBTS, "<b>3 + 4</b> is 7")} if index == 2 else {}
    rollout = Rollout(
        problem, index, text, ids, "stop", 1, {"temperature": 0.8}, 0.5, logprobs=(-0.5,) * len(ids)
    )
    verdict = Verdict(status, said[:40], "boxed", AnswerType.NUMBER, "1", 0.5, opinions=doubts)
    return Judged(rollout, verdict)


def commit(ledger, buffer, cfg, prompter, t, own, num_seeds):
    """A round whose fit reads seed thoughts and every right rollout about a picture there is."""
    counted = tally(buffer.rows(t)) if own else Tally()
    ledger.commit_tally(t, buffer.seal(), counted)
    seed = Problem("s", "What is 3 + 4?", "7")
    examples = [
        prompter.example(f"s{i}", seed, "<think>\n3 + 4 = 7\n</think>\n7") for i in range(num_seeds)
    ]
    for one in own:
        problem = one.rollout.problem
        if one.verdict.is_correct and not problem.id.endswith(BLANK) and problem.images:
            name = f"{t}/{problem.id}/{one.rollout.sample_index}"
            examples.append(prompter.example(name, problem, one.rollout.token_ids, 1.5))
    plan = pack(examples, cfg.train, random.Random(0))
    run_dir, start = Path(cfg.run_dir), ledger.base
    note_fit(run_dir, plan, start, t + 1)
    weights = Weights(t + 1, str(run_dir / f"weights/v{t + 1:04d}"))
    portions = count_portions(examples)
    num = len(plan.steps)
    ledger.commit_fit(
        t, FitReport(weights, num, 32 * num, 900, 500, 2.0, 0.5, 9.0, portions=portions)
    )


def write_metrics(run_dir):
    records = [
        {"kind": "train", "round": 0, "train_step": n, "train/loss": 2 / n, "train/lr": 1e-4}
        for n in range(1, 21)
    ]
    records += [
        {"kind": "phase", "round": None, "phase": "start engines", "phase_seconds": 9.0},
        {"kind": "phase", "round": 0, "phase": "train", "phase_seconds": 30.0,
         "device_busy_share": 0.5},
    ]  # fmt: skip
    lines = "\n".join(map(json.dumps, records))
    (run_dir / "metrics.jsonl").write_text(f'{lines}\n{{"kind": "phase", "pha')
