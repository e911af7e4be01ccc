"""The algorithm, on one screen (Virgo, arXiv 2501.01904, section 3, iterated).

Round 0 imitates the textual long thoughts (D_T); every later round explores the image problems with
the model of the round before (M_{t-1}), keeps traces whose answers verify (D_SD), and trains M_t on
both. Every round, or every k-th, is evaluated on held-out problems, and kept or rejected by its
gates. The loop
knows records and ports only: no Ray, no engines, no files. Whatever it commits to the ledger is
never done again; an interrupted part of a round goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from virgo_ray.config import Config, ExtraConfig
from virgo_ray.errors import DroppedWeightsError, NoProgressError
from virgo_ray.ledger.changes import choosing_config
from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.gatekeeper import commit_evaluation, is_stopped
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.prompts import Prompter
from virgo_ray.ports import Ports, Sampler, Store
from virgo_ray.records import (
    Example,
    FitReport,
    Judged,
    Plan,
    Problem,
    Request,
    Round,
    SeedThought,
    Tally,
    Trace,
    Weights,
)
from virgo_ray.selection import (
    Asking,
    choose_blanks,
    choose_for_round,
    choose_problems,
    choose_samples,
    solve_rates,
    stopping_rule,
    weigh_losses,
)
from virgo_ray.selection.refilling import choose_refills, choose_reserve
from virgo_ray.selection.reinforcing import choose_lessons
from virgo_ray.selection.streams import stream
from virgo_ray.selection.training_set import add_seeds, choose_traces, latest_rounds
from virgo_ray.stats.tally import tally
from virgo_ray.train.pack import pack
from virgo_ray.train.work import Work

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What a run learns from: image problems, textual long thoughts, and how both are prompted.

    `blank` gives a problem with white pictures in place of its own. `work` says what an example
    costs in training.
    """

    problems: Sequence[Problem]
    seed_thoughts: Sequence[SeedThought]
    prompter: Prompter
    blank: Callable[[Problem], Problem]
    work: Work


def run_rounds(cfg: Config, ports: Ports, material: Material, ledger: Ledger) -> Iterator[Round]:
    """Yield every round that is completed by this call, the base first.

    A round is yielded when all of it is committed; the rollout workers serve its weights then. It
    ends after `cfg.rounds`, or with a rejected round where the gates say so.

    Raises:
        NoProgressError: nothing new is accepted any more. Also what the ports raise.
    """
    newest = ledger.newest
    push(cfg, newest.weights, ports, material, ledger)
    if newest.evaluation is None and is_due(cfg, newest):
        yield (newest := evaluate(cfg, newest, ports, material, ledger))
    for t in range(ledger.next_round, cfg.rounds + 1):
        if is_stopped(cfg.gates, newest):
            return
        if not ledger.has_tally(t):
            explore(cfg, t, ports, material, ledger)
            ledger.commit_tally(t, ports.store.seal(), count_round(t, ports.store))
            ports.store.clean(ledger.buffer_versions)
        refuse_barren(cfg, ledger)
        fit = train(cfg, t, ports, material, ledger)  # M_t, still in the trainer's memory
        push(cfg, fit.weights, ports, material, ledger)
        ports.trainer.settle()
        ledger.commit_fit(t, fit)
        newest = ledger.newest
        if is_due(cfg, newest):
            newest = evaluate(cfg, newest, ports, material, ledger)
        yield newest


def explore(cfg: Config, t: int, ports: Ports, material: Material, ledger: Ledger) -> None:
    """Sample, verify and store what round `t` asks and the store does not have yet.

    What it asks is committed before the first answer is stored: a round goes on as it was begun.
    """
    ask = ledger.begun(t) or plan_exploration(cfg, t, material.problems, ports.store, ledger)
    push(cfg, ask.weights, ports, material, ledger)

    def ask_missing() -> bool:
        requests = find_missing_requests(cfg, t, ask, material, ports.store)
        if requests:
            rollouts = sampler(ports, t).sample(requests, ask.sampling)
            judged = requests.note_all(filter(None, ports.verifiers.judge(rollouts)))
            begun = before_first(judged, lambda: ledger.begin(t, ask))
            ports.store.add_all(t, begun, requests)
        return bool(requests)

    while with_tensors(ask.weights, ask_missing, cfg, ports, material, ledger):
        pass


def before_first(judged: Iterable[Judged], do: Callable[[], None]) -> Iterator[Judged]:
    """`judged` as it is; `do` is called when the first is there and nobody has it yet."""
    for n, item in enumerate(judged):
        if n == 0:
            do()
        yield item


def train(cfg: Config, t: int, ports: Ports, material: Material, ledger: Ledger) -> FitReport:
    """Fit round `t` on D_T and D_SD. Without a seed round, round 0 leaves the base as it is."""
    if t == 0 and not cfg.seed_round:
        return FitReport(ledger.base, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    start = start_point(cfg, ledger)
    plan = plan_fit(cfg, t, start, ports, material, ledger)
    fit = partial(ports.trainer.fit, plan, start, version=t + 1)
    return with_tensors(start, fit, cfg, ports, material, ledger)


def plan_fit(
    cfg: Config, t: int, start: Weights, ports: Ports, material: Material, ledger: Ledger
) -> Plan:
    """What round `t` is trained on, from `start`; the same whenever it is asked for."""
    choosing = choosing_config(cfg, ledger.changes, t)
    examples = training_examples(choosing, t, start, material, ports.store)
    return pack(examples, cfg.train, stream(cfg.seed, t, "pack"), material.work)


def push(cfg: Config, weights: Weights, ports: Ports, material: Material, ledger: Ledger) -> None:
    """Have `weights` served."""
    with_tensors(weights, partial(ports.rollouts.push, weights), cfg, ports, material, ledger)


def with_tensors(
    weights: Weights,
    do: Callable[[], T],
    cfg: Config,
    ports: Ports,
    material: Material,
    ledger: Ledger,
) -> T:
    """What `do` returns. Where it needs tensors of `weights` that nobody has any more, because
    whoever held them died, they are trained again, and it goes on."""
    try:
        return do()
    except DroppedWeightsError:
        if not bring_back(cfg, weights, ports, material, ledger):
            raise
        return do()


def bring_back(
    cfg: Config, weights: Weights, ports: Ports, material: Material, ledger: Ledger
) -> bool:
    """Have the tensors of `weights` on disk, which `weights.publish_every` left out; False: they
    were not left out.

    From memory where they still are; else the fits since the last version with tensors are done
    again, on the plans and from the starts that they had. What the ledger says of them stays.
    """
    lost = ledger.find_lost(weights)
    if lost and not ports.trainer.write_now(weights.version):
        for number, start, version in lost:
            plan = plan_fit(cfg, number, start, ports, material, ledger)
            ports.trainer.fit(plan, start, version, is_again=True)
        ports.trainer.write_now(weights.version)  # waits until they are there
    return bool(lost)


def evaluate(
    cfg: Config, trained: Round, ports: Ports, material: Material, ledger: Ledger
) -> Round:
    """Measure a round on held-out problems and judge it by its gates; what trained nothing has the
    base's evaluation."""
    is_base_again = trained.number is not None and trained.weights == ledger.base
    known = ledger.round(None).evaluation if is_base_again else None
    measure = partial(ports.evaluator.evaluate, trained.weights)
    evaluation = known or with_tensors(trained.weights, measure, cfg, ports, material, ledger)
    return commit_evaluation(cfg.gates, ledger, trained.number, evaluation)


def finish_early(cfg: Config, ports: Ports, material: Material, ledger: Ledger) -> Iterator[Round]:
    """Where a run gets no further: its newest round evaluated and judged, unless it was."""
    newest = ledger.newest
    if newest.evaluation is None:
        push(cfg, newest.weights, ports, material, ledger)
        yield evaluate(cfg, newest, ports, material, ledger)


def is_due(cfg: Config, trained: Round) -> bool:
    """Whether a round is evaluated, and judged by its gates."""
    return cfg.evaluate.is_due(trained.number, cfg.rounds)


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


def plan_exploration(
    cfg: Config, t: int, problems: Sequence[Problem], store: Store, ledger: Ledger
) -> Exploration:
    """Which problems to ask in round `t`; depends on committed earlier rounds only.

    The model of the round before is asked, or the newest that no gate rejected. Round 0 asks
    nothing, or, with `explore.screen`, everything once and greedily: the base's own answers, which
    the faithful recipe uses to drop what is too easy.
    """
    if t == 0:
        greedy = cfg.explore.sampling.used_for(is_greedy=True)
        asked = problems if cfg.explore.screen else ()
        return Exploration(ids(asked), ledger.weights, 1, greedy, ExtraConfig(), False)
    earlier = latest_rounds([*store.taken_rounds(), *range(1, t)], cfg.explore.rate_rounds)
    asked = choose_problems(
        problems,
        solve_rates(store.round_counts(earlier), stopping_rule(cfg.explore)),
        cfg.explore,
        stream(cfg.seed, t, "explore"),
        store.solved(round=0),
    )
    sampling = cfg.explore.sampling
    if cfg.explore.temperatures:
        temperature = choose_for_round(cfg.explore.temperatures, t)
        sampling = sampling.model_copy(update={"temperature": temperature})
    return Exploration(
        ids(asked),
        ledger.weights,
        cfg.explore.num_samples,
        sampling,
        cfg.explore.extra,
        cfg.explore.blank_probe,
        ids(choose_reserve(cfg, t, problems, asked, store)),
        cfg.train.objective,
    )


def ids(problems: Sequence[Problem]) -> tuple[str, ...]:
    return tuple(problem.id for problem in problems)


def find_missing_requests(
    cfg: Config, t: int, ask: Exploration, material: Material, store: Store
) -> Asking:
    """What is not in the store yet, in one stream; extra rollouts and probes follow the verdicts
    that they depend on.

    What is asked in the end depends on the verdicts only, not on their order: whenever a round is
    killed, the next start asks for exactly what is missing.
    """
    known = {p.id: p for p in material.problems}
    asked = [*ask.asked, *find_refills(t, ask, known, store)]
    by_id = {id: known[id] for id in asked if id in known}
    most = ask.num_samples + ask.extra.max_samples
    samples = [(problem, index) for problem in by_id.values() for index in range(most)]

    def probe(found: Mapping[tuple[str, int], bool]) -> list[Request]:
        asked = [by_id[id] for id in dict.fromkeys(id for id, _ in found) if id in by_id]
        blank = [(material.blank(problem), 0) for problem in choose_blanks(asked, found)]
        return [replace(r, is_greedy=True) for r in store.still_missing(t, blank, cfg.seed)]

    return Asking(
        store.still_missing(t, samples, cfg.seed),
        lambda found: choose_samples(by_id, ask.num_samples, ask.extra, found),
        probe if ask.has_blank_probe else None,
        store.are_correct(t),
    )


def find_refills(t: int, ask: Exploration, known: Container[str], store: Store) -> Sequence[str]:
    """Ids of problems that round `t` asks because groups had no signal, as far as it is known."""
    if not ask.reserve:
        return ()
    judged, groups = store.are_correct(t), store.groups(t)
    samples = ask.num_samples
    return choose_refills(ask.asked, ask.reserve, judged, samples, known, groups, ask.objective)


def count_round(t: int, store: Store) -> Tally:
    """What is stored of round `t`, counted, with its probes."""
    blank, verifiers = store.blank_solved([t]), store.verifier_versions(t)
    counted = replace(
        tally(store.rows(t)),
        new=store.num_new(t),
        verifiers=verifiers if len(verifiers) > 1 else None,
    )
    if not blank:
        return counted
    return replace(counted, blank_asked=len(blank), blank_solved=sum(blank.values()))


def training_examples(
    cfg: Config, t: int, start: Weights, material: Material, store: Store
) -> list[Example]:
    """Seed thoughts plus the traces selected from rounds 1..t."""
    prompter = material.prompter
    seeds = [prompter.example(s.problem.id, s.problem, s.thought) for s in material.seed_thoughts]
    if cfg.train.objective.is_reinforcement and t > 0:
        return add_seeds(cfg, t, seeds, group_examples(cfg, t, start, material, store))
    chosen = choose_traces(cfg, t, store)
    weights = weigh_losses(chosen, cfg.select.loss_balance, stopping_rule(cfg.explore))
    traces = store.traces(chosen, material.problems)
    own = [own_example(prompter, x, w) for x, w in zip(traces, weights, strict=True)]
    return add_seeds(cfg, t, seeds, own)


def group_examples(
    cfg: Config, t: int, start: Weights, material: Material, store: Store
) -> list[Example]:
    """What the groups of round `t` teach, wrong rollouts included.

    Raises:
        NoProgressError: no group has signal.
    """
    lessons, signal = choose_lessons(cfg.train.objective, t, store, start.version)
    if not lessons:
        raise NoProgressError(
            f"none of the {signal.num_groups} groups of round {t} has signal: all rollouts about a "
            f"problem are worth the same, {signal.mean_reward:.2f} on average, or make no pair; "
            "expected problems that are solved sometimes: choose others, or raise "
            "explore.num_samples"
        )
    traces = store.traces([lesson.member for lesson in lessons], material.problems)
    return [
        replace(
            own_example(material.prompter, trace, lesson.weight),
            old_logprobs=trace.logprobs,
            temperature=trace.temperature,
            group=lesson.group,
            role=lesson.role,
        )
        for trace, lesson in zip(traces, lessons, strict=True)
    ]


def own_example(prompter: Prompter, trace: Trace, weight: float) -> Example:
    """An example of what was sampled."""
    id = f"{trace.round}/{trace.problem.id}/{trace.sample_index}"
    return prompter.example(id, trace.problem, trace.token_ids, weight)


def start_point(cfg: Config, ledger: Ledger) -> Weights:
    """Where a fit starts: the base every round (the paper), or the last round that was kept."""
    return ledger.base if cfg.train.restart_from == "base" else ledger.weights
