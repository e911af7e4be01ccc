"""Applies the gates to a run: a round that fails them is rejected, and older weights are kept.

The decision is committed together with the evaluation it rests on, so a run killed anywhere decides
once. It is taken again, by the limits of now, only for a rejected newest round after which no
exploration was finished: decisions that a run went on from stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virgo_ray.config import GatesConfig
from virgo_ray.errors import GateError
from virgo_ray.ledger.gates import BASE, Failure, failures
from virgo_ray.ledger.ledger import Ledger


def commit_evaluation(
    cfg: GatesConfig | None, ledger: Ledger, label: str | int, result: Mapping[str, Any]
) -> list[Failure]:
    """Commit an evaluation and, if it fails its gates, that its round is rejected; the base never
    is."""
    found = [] if label == BASE else failures(cfg, result, ledger.references)
    ledger.commit_evaluated(label, result, found)
    return found


def judge_again(cfg: GatesConfig | None, ledger: Ledger) -> bool:
    """Judge a rejected newest round by the limits of now, unless a later exploration is done.

    Returns:
        Whether that changed anything.
    """
    newest = ledger.report()
    before = ledger.gate_failures(newest.label)
    if newest.round is None or not before or ledger.is_explored(ledger.next_round):
        return False
    found = failures(cfg, ledger.evaluation(newest.label), ledger.references)
    ledger.commit_judged_again(newest.round, found)
    return found != before


def is_stopped(cfg: GatesConfig | None, ledger: Ledger) -> bool:
    """Whether the newest round was rejected and a rejected round ends the run."""
    is_ending = cfg is not None and cfg.on_failure == "stop"
    return is_ending and ledger.is_rejected(ledger.report().label)


def refuse_bad_end(cfg: GatesConfig | None, ledger: Ledger) -> None:
    """A run that stopped at a gate, or kept no round at all, did not end well.

    Raises:
        GateError: naming the gates, the weights that are kept, and what can be done.
    """
    newest = ledger.report()
    is_untaught = ledger.is_rejected(newest.label) and ledger.weights == ledger.base
    if not is_stopped(cfg, ledger) and not is_untaught:
        return
    why = "\n  ".join(map(str, ledger.gate_failures(newest.label)))
    gate = ledger.gate_failures(newest.label)[0].gate
    go_on = "`gates.on_failure=continue` goes on from the kept weights, "
    raise GateError(
        f"round {newest.label} failed its gates on held-out data"
        + (" and no round was kept" if is_untaught else "")
        + f":\n  {why}\nKept: {ledger.weights.path}. See report.html and docs/gates.md. The same "
        f"command with {go_on if is_stopped(cfg, ledger) else ''}`gates.{gate}=null` (or a wider "
        "limit) judges this round again; another recipe needs a new run_dir=PATH"
    )
