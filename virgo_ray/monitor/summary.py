"""`report.json`: what a run achieved, round by round, as other programs read it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.files import write_atomically
from virgo_ray.ledger.ledger import Ledger, RoundReport

HELD_OUT_KEYS = (
    "pass_at_1",
    "pass_at_k",
    "maj_at_k",
    "k",
    "mean_thought_tokens",
    "long_format_share",
    "truncated_share",
    "blank_image_pass_at_1",
)
# Not measured by every version or config; null then.
OPTIONAL_KEYS = (
    "consistent_choice_share",
    "repetitive_share",
    "no_answer_share",
    "distinct_share",
    "perception_pass_at_1",
    "text_pass_at_1",
)


def round_entry(ledger: Ledger, report: RoundReport) -> dict[str, Any]:
    """One element of `report.json`'s `rounds`; shares and accuracies are fractions."""
    held_out = ledger.evaluation(report.label)
    explored, trained = report.exploration, report.training
    return {
        "round": report.label,
        **{key: held_out[key] for key in HELD_OUT_KEYS},
        **{key: held_out.get(key) for key in OPTIONAL_KEYS},
        "rejected": ledger.is_rejected(report.label),
        "gate_failures": [
            {**asdict(failure), "says": str(failure)}
            for failure in ledger.gate_failures(report.label)
        ],
        "accepted": explored.get("accepted", 0),
        "asked": explored.get("asked", 0),
        "seconds": round(ledger.seconds(report.label), 1),
        "per_source": held_out["per_source"],
        "not_judged_share": held_out["not_judged_share"],
        "trained_tokens": trained.get("num_tokens", 0),
        "trained_target_tokens": trained.get("num_target_tokens", 0),
        "weights_version": report.weights.version,
    }


def write_report(ledger: Ledger, run_dir: Path) -> dict[str, Any]:
    """Write `report.json` from the ledger; every committed round must be evaluated.

    `final_checkpoint` is that of the last round that no gate rejected.
    """
    report = {
        "rounds": [round_entry(ledger, r) for r in ledger.reports()],
        "final_checkpoint": ledger.weights.path,
    }
    write_atomically(run_dir / "report.json", json.dumps(report, indent=1))
    return report
