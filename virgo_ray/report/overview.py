"""What the overview shows of a run, from its ledger: rounds, intervals, gates, funnel, config.

Rounds without an evaluation have null in its place. Knows no rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import Any

from virgo_ray.config import Config
from virgo_ray.config.describing import dump_published, redact
from virgo_ray.ledger.gates import checks, is_passed
from virgo_ray.ledger.history import History
from virgo_ray.records import BASE, Evaluation, Figures, Round, Status
from virgo_ray.stats.estimates import ACCURACIES, share_estimate

# Shares, and the figure that says over how many problems each is.
SHARES = {
    **ACCURACIES,
    "truncated_share": "num_problems",
    "long_format_share": "num_problems",
    "repetitive_share": "num_problems",
    "no_answer_share": "num_problems",
}


def describe_run(cfg: Config, history: History) -> dict[str, Any]:
    """All of it, for `data/run.js`."""
    rounds = history.rounds()
    base = rounds[0].evaluation
    return {
        "name": cfg.name,
        "objective": cfg.train.objective.name,
        "is_reinforcement": cfg.train.objective.is_reinforcement,
        "num_rounds": cfg.rounds,
        "model": cfg.model.path,
        "kept": history.weights.path,
        "kept_version": history.weights.version,
        "formats": [list(format) for format in cfg.verify.formats],
        "rounds": [describe_round(cfg, rounds[: n + 1], base) for n in range(len(rounds))],
        "config": dump_published(cfg),
        "changes": [redact(dict(change)) for change in history.changes],
    }


def describe_round(cfg: Config, rounds: Sequence[Round], base: Evaluation | None) -> dict[str, Any]:
    """The last of `rounds`, which are the base and all rounds up to it."""
    done = rounds[-1]
    now = done.evaluation
    return {
        "label": str(done.label),
        "weights_version": done.weights.version,
        "is_rejected": done.is_rejected,
        "failures": [str(failure) for failure in done.failures],
        "seconds": round(done.seconds, 1),
        "evaluation": None if now is None else describe_evaluation(now),
        "by_base": None if now is None else compare_with_base(now, base),
        "gates": [] if now is None or done.label == BASE else _gates(cfg, now, rounds),
        "tally": None if done.tally is None else asdict(done.tally),
        "fit": None if done.fit is None else asdict(done.fit),
        "funnel": funnel(done),
    }


def describe_evaluation(now: Evaluation) -> dict[str, Any]:
    """Its figures, with the 95 % interval of every share; by source the same."""
    figures = asdict(now)
    for left_out in ("per_source", "solved"):
        del figures[left_out]
    sources = {name: {**asdict(own), "intervals": intervals(own)} for name, own in
               now.per_source.items()}  # fmt: skip
    return {**figures, "intervals": intervals(now), "per_source": sources}


def intervals(now: Figures) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every share that was measured."""
    found = {}
    for name, count in SHARES.items():
        value, num = getattr(now, name, None), getattr(now, count, 0)
        if value is not None and num:
            estimate = share_estimate(round(value * num), num)
            found[name] = (round(estimate.low, 4), round(estimate.high, 4))
    return found


def compare_with_base(now: Evaluation, base: Evaluation | None) -> dict[str, Any] | None:
    """pass@1 by difficulty: of held-out problems that the base solves, and of those it does not.

    None where it is not known problem by problem.

    Example: {"easy": (30, 38), "hard": (20, 62)}: 30 of the base's 38 are still solved, and 20 of
    the 62 that it did not solve.
    """
    ours = now.solved.get("pass_at_1", "")
    theirs = "" if base is None else base.solved.get("pass_at_1", "")
    if not ours or len(ours) != len(theirs):
        return None
    pairs = list(zip(ours, theirs, strict=True))
    counts = {flag: [a for a, b in pairs if b == flag] for flag in "10"}
    return {
        name: (own.count("1"), len(own)) for name, own in
        (("easy", counts["1"]), ("hard", counts["0"]))
    }  # fmt: skip


def funnel(done: Round) -> list[tuple[str, int | None]]:
    """From what was asked to what was trained on: (step, how many); None where nobody counted."""
    tally, fit = done.tally, done.fit
    if tally is None or (not tally.asked and fit is None):
        return []
    failed = sum(n for name, n in tally.statuses.items() if Status(name).is_failure_to_judge)
    traces = None
    if fit is not None and fit.portions:
        kinds = ("text_traces", "picture_traces")
        traces = sum(fit.portions[kind].num_examples for kind in kinds if kind in fit.portions)
    return [
        ("asked", tally.asked),
        ("judged", tally.asked - failed),
        ("right", tally.accepted),
        ("new", tally.new),
        ("chosen", traces),
        ("trained", None if fit is None else fit.num_examples),
    ]


def _gates(cfg: Config, now: Evaluation, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Every gate of the last round with its margin, by the limits of now: above 0 it is passed."""
    *before, last = rounds
    references = [r for r in before if r.evaluation is not None and not r.is_rejected]
    since = takewhile(lambda r: r.evaluation is None, reversed(before))
    fits = [r.fit for r in (*since, last) if r.fit is not None]
    found = []
    for check in checks(cfg.gates, now, references, fits):
        sign = 1 if check.is_lower_bound else -1
        margin = sign * (check.value - check.bound)
        found.append({**asdict(check), "margin": margin, "is_passed": is_passed(check)})
    return found
