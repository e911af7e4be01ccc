"""`report.json`: what a run achieved, round by round, as other programs read it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.files import write_atomically, writing
from virgo_ray.monitor.intake import portion_numbers, warnings_by_round
from virgo_ray.records import Evaluation, Round, Tally, Weights
from virgo_ray.stats.estimates import ACCURACIES, share_estimate

COMMITTED = "what was committed is kept, and the report is written anew by the next start"
HELD_OUT_KEYS = (
    "pass_at_1",
    "pass_at_k",
    "maj_at_k",
    "k",
    "mean_thought_tokens",
    "long_format_share",
    "truncated_share",
    "blank_image_pass_at_1",
    # From here on: not measured by every version or config; null then.
    "consistent_choice_share",
    "repetitive_share",
    "no_answer_share",
    "distinct_share",
    "perception_pass_at_1",
    "text_pass_at_1",
)

SOURCE_KEYS = (
    "pass_at_1", "pass_at_k", "maj_at_k", "num_problems", "mean_thought_tokens", "truncated_share",
)  # fmt: skip


def intervals(measured: Evaluation | None) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every accuracy that was measured, as if problems were drawn again.

    Example: `intervals(evaluation)["pass_at_1"]` is (0.745, 0.854) for 161 of 200.
    """
    found: dict[str, tuple[float, float]] = {}
    if measured is None:
        return found
    for name, count in ACCURACIES.items():
        value, num = getattr(measured, name), getattr(measured, count)
        if value is not None and num:
            estimate = share_estimate(round(value * num), num)
            found[name] = (round(estimate.low, 4), round(estimate.high, 4))
    return found


def round_entry(done: Round) -> dict[str, Any]:
    """One element of `report.json`'s `rounds`; shares and accuracies are fractions, and null of a
    round that was not evaluated."""
    held_out = {} if done.evaluation is None else asdict(done.evaluation)
    tally, fit = done.tally or Tally(), done.fit
    return {
        "round": done.label,
        **{key: held_out.get(key) for key in HELD_OUT_KEYS},
        "intervals": intervals(done.evaluation),
        "rejected": done.is_rejected,
        "gate_failures": [{**asdict(failure), "says": str(failure)} for failure in done.failures],
        "accepted": tally.accepted,
        "asked": tally.asked,
        "seconds": round(done.seconds, 1),
        "per_source": held_out.get("per_source", {}),
        "not_judged_share": held_out.get("not_judged_share"),
        "trained_tokens": fit.num_tokens if fit else 0,
        "trained_target_tokens": fit.num_target_tokens if fit else 0,
        **{f"trained_{name}": number for name, number in portion_numbers(fit).items()},
        "weights_version": done.weights.version,
    }


def source_numbers(done: Round) -> dict[str, float]:
    """Figures of every source, under names for curves: {"sources/chain/pass_at_1": 0.5}."""
    found: dict[str, float | None] = {}
    for source, figures in (done.evaluation.per_source if done.evaluation else {}).items():
        for name in SOURCE_KEYS:
            found[_of_source(source, name)] = getattr(figures, name)
    for source, tally in (done.tally.sources if done.tally else {}).items():
        found[_of_source(source, "asked")] = tally.asked
        found[_of_source(source, "accepted")] = tally.accepted
    return {name: value for name, value in found.items() if value is not None}


def _of_source(source: str, name: str) -> str:
    return f"sources/{re.sub(r'[^A-Za-z0-9_]', '_', source)}/{name}"


def round_entries(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """The elements of `report.json`'s `rounds`, with what only several rounds can tell."""
    warnings = warnings_by_round(rounds)
    return [{**round_entry(done), "warnings": warnings.get(done.label, [])} for done in rounds]


def write_report(run_dir: Path, rounds: Sequence[Round], final: Weights) -> dict[str, Any]:
    """Write `report.json`; every round is trained, the base and the last are evaluated.

    `final_checkpoint` is that of the last round that no gate rejected.
    """
    report = {"rounds": round_entries(rounds), "final_checkpoint": final.path}
    path = run_dir / "report.json"
    with writing(path, COMMITTED):
        write_atomically(path, json.dumps(report, indent=1))
    return report
