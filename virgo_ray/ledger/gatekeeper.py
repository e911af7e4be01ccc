"""Applies the gates to a run: a round that fails them is rejected, and older weights are kept.

The decision is committed together with the evaluation it rests on, so a run killed anywhere decides
once. It is taken again, by the limits of now, only for a rejected newest round after which no
exploration was finished, and none has begun that is learned from on-policy: decisions that a run
went on from stand. An exploration that has begun is
finished with the weights that it was begun with (`ledger/exploration.py`), also if the newer ones
are accepted after all: no round mixes two models. The fit after it goes on from the newer ones.
"""

from __future__ import annotations

from virgo_ray.config import GatesConfig
from virgo_ray.errors import GateError, WeightsError
from virgo_ray.ledger.gates import failures
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Evaluation, Failure, FitReport, Round
from virgo_ray.weights.manifest import check_weights


def commit_evaluation(
    cfg: GatesConfig | None, ledger: Ledger, number: int | None, evaluation: Evaluation
) -> Round:
    """Commit an evaluation and, if it fails its gates, that its round is rejected; the base never
    is. Returns the round, complete."""
    found: tuple[Failure, ...] = ()
    if number is not None:
        found = failures(cfg, evaluation, ledger.references, _fits(ledger, number))
    ledger.commit_evaluation(number, evaluation, found)
    return ledger.round(number)


def _fits(ledger: Ledger, number: int) -> list[FitReport]:
    """Those of the rounds that are judged together."""
    rounds = map(ledger.round, ledger.judged_with(number))
    return [r.fit for r in rounds if r.fit is not None]


def judge_again(cfg: GatesConfig | None, ledger: Ledger) -> bool:
    """Judge a rejected newest round by the limits of now, unless a later exploration is done, or
    has begun and can teach only the weights that it was begun with.

    Returns:
        Whether that changed anything.
    """
    newest = ledger.newest
    if newest.number is None or not newest.is_rejected or _is_built_on(ledger):
        return False
    fits = _fits(ledger, newest.number)
    found = failures(cfg, newest.measured, ledger.references, fits)
    ledger.commit_failures(newest.number, found)
    return found != newest.failures


def _is_built_on(ledger: Ledger) -> bool:
    """Whether the decision on the newest round is one that the run went on from.

    A begun exploration that is learned from on-policy is: its fit starts from the weights that were
    asked, which are those that the decision kept.
    """
    begun = ledger.begun(ledger.next_round)
    is_on_policy = begun is not None and begun.objective.is_on_policy
    return is_on_policy or ledger.has_tally(ledger.next_round)


def is_stopped(cfg: GatesConfig | None, newest: Round) -> bool:
    """Whether the newest round was rejected and a rejected round ends the run."""
    return cfg is not None and cfg.on_failure == "stop" and newest.is_rejected


def refuse_lost_end(cfg: GatesConfig | None, last_round: int, ledger: Ledger) -> None:
    """A run that has nothing left to do still has its result: its kept weights are whole.

    What a start trains or pushes is compared anyway, so this reads the files only where nothing is
    left to do. Tensors that `weights.publish_every` left out are such work.

    Raises:
        WeightsError: the final checkpoint is gone or damaged, and what can be done.
    """
    is_over = ledger.is_complete(last_round) or is_stopped(cfg, ledger.newest)
    if not is_over or ledger.weights == ledger.base or ledger.find_lost(ledger.weights):
        return
    try:
        check_weights(ledger.weights.path)
    except WeightsError as error:
        raise WeightsError(
            f"the run is over, but its final checkpoint is not whole: {error}. Nothing was "
            "changed. Bring the directory back from a copy, or train anew on the stored rollouts: "
            "a new run_dir=PATH with store.from=RUN, the present run directory"
        ) from error


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
        + f":\n  {why}\nKept: {kept.path}. See report/index.html and docs/gates.md. The same "
        f"command with {go_on if has_stopped else ''}`gates.{newest.failures[0].gate}=null` (or a "
        "wider limit) judges this round again; another recipe needs a new run_dir=PATH"
    )
