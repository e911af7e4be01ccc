"""Applies the gates to a run: a round that fails them is rejected, and older weights are kept.

The decision is committed together with the evaluation it rests on, so a run killed anywhere decides
once. It is taken again, by the limits of now, only for a rejected newest round after which no
exploration was finished: decisions that a run went on from stand.
"""

from __future__ import annotations

from virgo_ray.config import GatesConfig
from virgo_ray.errors import GateError
from virgo_ray.ledger.gates import failures
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Evaluation, Failure, Round


def commit_evaluation(
    cfg: GatesConfig | None, ledger: Ledger, number: int | None, evaluation: Evaluation
) -> Round:
    """Commit an evaluation and, if it fails its gates, that its round is rejected; the base never
    is. Returns the round, complete."""
    found: tuple[Failure, ...] = ()
    if number is not None:
        found = failures(cfg, evaluation, ledger.references)
    ledger.commit_evaluation(number, evaluation, found)
    return ledger.round(number)


def judge_again(cfg: GatesConfig | None, ledger: Ledger) -> bool:
    """Judge a rejected newest round by the limits of now, unless a later exploration is done.

    Returns:
        Whether that changed anything.
    """
    newest = ledger.newest
    if newest.number is None or not newest.is_rejected or ledger.has_tally(ledger.next_round):
        return False
    found = failures(cfg, newest.measured, ledger.references)
    ledger.commit_failures(newest.number, found)
    return found != newest.failures


def is_stopped(cfg: GatesConfig | None, newest: Round) -> bool:
    """Whether the newest round was rejected and a rejected round ends the run."""
    return cfg is not None and cfg.on_failure == "stop" and newest.is_rejected


def refuse_bad_end(cfg: GatesConfig | None, ledger: Ledger) -> None:
    """A run that stopped at a gate, or kept no round at all, did not end well.

    Raises:
        GateError: naming the gates, the weights that are kept, and what can be done.
    """
    newest, kept = ledger.newest, ledger.weights
    is_untaught = newest.is_rejected and kept == ledger.base
    has_stopped = is_stopped(cfg, newest)
    if not has_stopped and not is_untaught:
        return
    why = "\n  ".join(map(str, newest.failures))
    go_on = "`gates.on_failure=continue` goes on from the kept weights, "
    raise GateError(
        f"round {newest.label} failed its gates on held-out data"
        + (" and no round was kept" if is_untaught else "")
        + f":\n  {why}\nKept: {kept.path}. See report.html and docs/gates.md. The same "
        f"command with {go_on if has_stopped else ''}`gates.{newest.failures[0].gate}=null` (or a "
        "wider limit) judges this round again; another recipe needs a new run_dir=PATH"
    )
