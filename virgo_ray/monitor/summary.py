"""`report.json`: what a run achieved, round by round, as other programs read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.files import write_atomically, writing
from virgo_ray.records import Round, Tally, Weights

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


def round_entry(done: Round) -> dict[str, Any]:
    """One element of `report.json`'s `rounds`; shares and accuracies are fractions."""
    held_out = asdict(done.measured)
    tally, fit = done.tally or Tally(), done.fit
    return {
        "round": done.label,
        **{key: held_out[key] for key in HELD_OUT_KEYS},
        "rejected": done.is_rejected,
        "gate_failures": [{**asdict(failure), "says": str(failure)} for failure in done.failures],
        "accepted": tally.accepted,
        "asked": tally.asked,
        "seconds": round(done.seconds, 1),
        "per_source": held_out["per_source"],
        "not_judged_share": held_out["not_judged_share"],
        "trained_tokens": fit.num_tokens if fit else 0,
        "trained_target_tokens": fit.num_target_tokens if fit else 0,
        "weights_version": done.weights.version,
    }


def write_report(run_dir: Path, rounds: Sequence[Round], final: Weights) -> dict[str, Any]:
    """Write `report.json`; every round must be complete.

    `final_checkpoint` is that of the last round that no gate rejected.
    """
    report = {"rounds": [round_entry(done) for done in rounds], "final_checkpoint": final.path}
    path = run_dir / "report.json"
    with writing(path, COMMITTED):
        write_atomically(path, json.dumps(report, indent=1))
    return report
