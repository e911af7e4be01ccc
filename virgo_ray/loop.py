"""The algorithm, on one screen (Virgo, arXiv 2501.01904, section 3, iterated).

Round 0 imitates the textual long thoughts (D_T); every later round explores the image problems with
the model of the round before (M_{t-1}), keeps traces whose answers verify (D_SD), and trains M_t on
both. The loop knows records and ports only: no Ray, no engines, no files. Whatever it commits to
the ledger is never done again; an interrupted half of a round goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, ExtraConfig, SamplingConfig
from virgo_ray.errors import NoProgressError
from virgo_ray.ledger.ledger import Ledger, RoundReport
from virgo_ray.model.blank import blanked
from virgo_ray.model.prompts import Prompter
from virgo_ray.ports import Ports, Sampler
from virgo_ray.records import Example, FitReport, Problem, Request, SeedThought, Weights
from virgo_ray.selection import (
    blanks_wanted,
    choose_problems,
    loss_weights,
    mix,
    of_round,
    samples_wanted,
)
from virgo_ray.selection.streams import stream
from virgo_ray.selection.training_set import chosen_traces
from virgo_ray.stats.tally import tally
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.train.pack import pack


@dataclass(frozen=True)
class Material:
    """What a run learns from: image problems, textual long thoughts, and how both are prompted."""

    problems: Sequence[Problem]
    seed_thoughts: Sequence[SeedThought]
    prompter: Prompter


@dataclass(frozen=True)
class Exploration:
    """What one round asks of the model of the round before."""

    asked: Sequence[Problem]
    num_samples: int
    sampling: SamplingConfig
    extra: ExtraConfig
    has_blank_probe: bool


def run_rounds(
    cfg: Config, ports: Ports, material: Material, buffer: ReplayBuffer, ledger: Ledger
) -> Iterator[RoundReport]:
    """Yield the newest committed round (or the base), then every further round once committed.

    When a report is yielded, the rollout workers serve exactly that report's weights. Who takes it
    may evaluate and reject it: the next round then explores with the newest accepted weights.
    """
    newest = ledger.report()
    ports.rollouts.push(newest.weights)
    yield newest
    for t in range(ledger.next_round, cfg.rounds + 1):
        if not ledger.is_explored(t):
            ports.rollouts.push(ledger.weights)  # nothing to do, unless a round was rejected
            ask = plan_exploration(cfg, t, material.problems, buffer)
            for requests, sampling in unanswered(cfg, t, ask, buffer):
                rollouts = sampler(ports, t).sample(requests, sampling)  # from M_{t-1}
                buffer.add_all(t, ports.verifiers.judge(rollouts), len(requests))
            ledger.commit_explored(t, buffer.seal(), explored(t, buffer))
            buffer.clean(ledger.buffer_versions)
        refuse_barren(cfg, ledger)
        fit = fit_round(cfg, t, ports, material, buffer, ledger)  # M_t
        ledger.commit_trained(t, fit)
        ports.rollouts.push(fit.weights)
        yield ledger.report(t)


def refuse_barren(cfg: Config, ledger: Ledger) -> None:
    """Stop a run that goes on without getting anywhere.

    Raises:
        NoProgressError: the last `explore.max_barren_rounds` explorations brought nothing new.
    """
    limit, num = cfg.explore.max_barren_rounds, ledger.num_barren()
    if num >= limit:
        raise NoProgressError(
            f"{num} rounds in a row got no new thought accepted, expected one within "
            f"explore.max_barren_rounds={limit}; all of them are stored. Look at what was sampled "
            f"with `python -m virgo_ray.traces stats {cfg.run_dir}`; with a larger "
            "explore.max_barren_rounds the same command goes on"
        )


def sampler(ports: Ports, t: int) -> Sampler:
    """Who is asked in round `t`: the model itself, or a teacher. Round 0 screens with the base."""
    return ports.teacher if ports.teacher is not None and t > 0 else ports.rollouts


def fit_round(
    cfg: Config, t: int, ports: Ports, material: Material, buffer: ReplayBuffer, ledger: Ledger
) -> FitReport:
    """Train M_t. Without a seed round, round 0 leaves the base as it is."""
    if t == 0 and not cfg.seed_round:
        return FitReport(ledger.base, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    examples = training_examples(cfg, t, material, buffer)  # D_T and D_SD
    plan = pack(examples, cfg.train, stream(cfg.seed, t, "pack"))
    return ports.trainer.fit(plan, start_point(cfg, ledger), version=t + 1)


def plan_exploration(
    cfg: Config, t: int, problems: Sequence[Problem], buffer: ReplayBuffer
) -> Exploration:
    """Which problems to ask in round `t`; depends on committed earlier rounds only.

    Round 0 asks nothing, or, with `explore.screen`, everything once and greedily: the base's own
    answers, which the faithful recipe uses to drop what is too easy.
    """
    if t == 0:
        greedy = cfg.explore.sampling.model_copy(update={"temperature": 0.0})
        asked = problems if cfg.explore.screen else ()
        return Exploration(asked, 1, greedy, ExtraConfig(), has_blank_probe=False)
    first = 1 if cfg.explore.rate_rounds is None else max(1, t - cfg.explore.rate_rounds)
    asked = choose_problems(
        problems,
        buffer.judged_counts(range(first, t)),
        cfg.explore,
        stream(cfg.seed, t, "explore"),
        buffer.solved(round=0),
    )
    sampling = cfg.explore.sampling
    if cfg.explore.temperatures:
        temperature = of_round(cfg.explore.temperatures, t)
        sampling = sampling.model_copy(update={"temperature": temperature})
    return Exploration(
        asked, cfg.explore.num_samples, sampling, cfg.explore.extra, cfg.explore.blank_probe
    )


def unanswered(
    cfg: Config, t: int, ask: Exploration, buffer: ReplayBuffer
) -> Iterator[tuple[list[Request], SamplingConfig]]:
    """What is not in the store yet, batch by batch; each is made when all before it is stored.

    A batch depends on what is stored of the batches before it only: whenever a round is killed, the
    next start asks for exactly what is missing.
    """
    by_id = {p.id: p for p in ask.asked}
    requests: list[Request] | None = None
    while requests is None or requests:
        samples = samples_wanted(by_id, ask.num_samples, ask.extra, buffer.are_correct(t))
        wanted = ((by_id[id], index) for id, index in samples)
        if requests := buffer.still_missing(t, wanted, cfg.seed):
            yield requests, ask.sampling
    if ask.has_blank_probe:
        solved = blanks_wanted(ask.asked, buffer.are_correct(t))
        blank = [(blanked(p, Path(cfg.run_dir) / "blank"), 0) for p in solved]
        if requests := buffer.still_missing(t, blank, cfg.seed):
            yield requests, ask.sampling.model_copy(update={"temperature": 0.0})


def explored(t: int, buffer: ReplayBuffer) -> dict[str, Any]:
    """The tally of a round; `new` counts accepted thoughts that no earlier round had, `blank_asked`
    and `blank_solved` its probes."""
    blank = buffer.blank_solved([t])
    counts = {"blank_asked": len(blank), "blank_solved": sum(blank.values())}
    return {**tally(buffer.rows(t)), "new": buffer.num_new(t), **(counts if blank else {})}


def training_examples(
    cfg: Config, t: int, material: Material, buffer: ReplayBuffer
) -> list[Example]:
    """Seed thoughts plus the traces selected from rounds 1..t."""
    prompter = material.prompter
    chosen = chosen_traces(cfg, t, buffer)
    weights = loss_weights(chosen, cfg.select.loss_balance)
    traces = buffer.traces(chosen, material.problems)
    seeds = [prompter.example(s.problem.id, s.problem, s.thought) for s in material.seed_thoughts]
    own = [
        prompter.example(f"{x.round}/{x.problem.id}/{x.sample_index}", x.problem, x.token_ids, w)
        for x, w in zip(traces, weights, strict=True)
    ]
    return mix(seeds, own, seed_share(cfg, t), stream(cfg.seed, t, "mix"))


def seed_share(cfg: Config, t: int) -> float:
    shares = cfg.train.seed_share
    return of_round(shares, t) if isinstance(shares, tuple) else shares


def start_point(cfg: Config, ledger: Ledger) -> Weights:
    """Where a fit starts: the base every round (the paper), or the last round that was kept."""
    return ledger.base if cfg.train.restart_from == "base" else ledger.weights
