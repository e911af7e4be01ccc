"""The algorithm, on one screen (Virgo, arXiv 2501.01904, section 3, iterated).

Round 0 imitates the textual long thoughts (D_T); every later round explores the image problems with
the model of the round before (M_{t-1}), keeps traces whose answers verify (D_SD), and trains M_t on
both. The loop knows records and ports only: no Ray, no engines, no files. Whatever it commits to
the ledger is never done again; an interrupted half of a round goes on with what is missing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virgo_ray.buffer import ReplayBuffer
from virgo_ray.config import Config, SamplingConfig
from virgo_ray.data.prompts import Prompter
from virgo_ray.ledger import Ledger, RoundReport
from virgo_ray.pack import pack
from virgo_ray.ports import Ports, Sampler
from virgo_ray.records import Example, FitReport, Problem, SeedThought, Weights
from virgo_ray.selection import Candidate, choose_problems, mix, select
from virgo_ray.store.reader import TraceReader
from virgo_ray.tally import tally


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


def run_rounds(
    cfg: Config, ports: Ports, material: Material, buffer: ReplayBuffer, ledger: Ledger
) -> Iterator[RoundReport]:
    """Yield the newest committed round (or the base), then every further round once committed.

    When a report is yielded, the rollout workers serve exactly that report's weights.
    """
    ports.rollouts.push(ledger.weights)
    yield ledger.report()
    for t in range(ledger.next_round, cfg.rounds + 1):
        if not ledger.is_explored(t):
            ask = plan_exploration(cfg, t, material.problems, buffer)
            requests = buffer.missing(t, ask.asked, ask.num_samples, cfg.seed)
            rollouts = sampler(ports, t).sample(requests, ask.sampling)  # from M_{t-1}
            for judged in ports.verifiers.judge(rollouts):
                buffer.add(t, judged)
            ledger.commit_explored(t, buffer.seal(), tally(buffer.rows(t)))
            buffer.clean(ledger.buffer_versions)
        fit = fit_round(cfg, t, ports, material, buffer, ledger)  # M_t
        ledger.commit_trained(t, fit)
        ports.rollouts.push(fit.weights)
        yield ledger.report(t)


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
        return Exploration(problems if cfg.explore.screen else (), 1, greedy)
    asked = choose_problems(
        problems,
        buffer.judged_counts(range(1, t)),
        cfg.explore,
        stream(cfg.seed, t, "explore"),
        buffer.solved(round=0),
    )
    return Exploration(asked, cfg.explore.num_samples, cfg.explore.sampling)


def training_examples(
    cfg: Config, t: int, material: Material, buffer: ReplayBuffer
) -> list[Example]:
    """Seed thoughts plus the traces selected from rounds 1..t."""
    prompter = material.prompter
    traces = buffer.traces(chosen_traces(cfg, t, buffer), material.problems)
    seeds = [prompter.example(s.problem.id, s.problem, s.thought) for s in material.seed_thoughts]
    own = [
        prompter.example(f"{x.round}/{x.problem.id}/{x.sample_index}", x.problem, x.token_ids)
        for x in traces
    ]
    return mix(seeds, own, cfg.train.seed_share, stream(cfg.seed, t, "mix"))


def chosen_traces(cfg: Config, t: int, store: TraceReader) -> list[Candidate]:
    """What round `t` learns from, of all that was accepted up to then."""
    first = 1 if cfg.select.last_rounds is None else max(1, t + 1 - cfg.select.last_rounds)
    candidates = store.candidates(range(first, t + 1), cfg.verify.formats)
    return select(candidates, cfg.select, stream(cfg.seed, t, "select"))


def start_point(cfg: Config, ledger: Ledger) -> Weights:
    """Where a fit starts: the base every round (the paper), or the round before."""
    return ledger.base if cfg.train.restart_from == "base" else ledger.weights


def stream(seed: int, round: int, purpose: str) -> random.Random:
    """An independent random stream per (seed, round, purpose), the same in every process."""
    return random.Random(f"{seed}/{round}/{purpose}")
