"""`python -m virgo_ray.run CONFIG [key=value ...]`: one YAML file in, a slowly thinking model out.

Everything that can be refused is refused before an engine starts. The same command on the same run
directory goes on where it was. Exit codes: 0 the run ended well and `report.json` is complete;
2 the config or the data are wrong; 1 anything else, a round that failed its gates or a run without
progress included (then `report.json` goes as far as the run came); 130 interrupted (by SIGTERM
while Ray is connected: 143).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from virgo_ray.actors.cluster import connect_cluster, refuse_connected, start_actors
from virgo_ray.actors.job_progress import JobProgressSink
from virgo_ray.actors.logs import DRIVER, configure_logging, log_path
from virgo_ray.actors.ray_metrics import RayMetricsSink
from virgo_ray.command import KeysHelp, exit_code
from virgo_ray.config import Config, describe_core_keys, open_config
from virgo_ray.config.importing import is_import_path
from virgo_ray.data.contents import CheckedContents
from virgo_ray.data.ingest import read_data
from virgo_ray.data.own import find_reader
from virgo_ray.errors import NoProgressError
from virgo_ray.evaluate import Evaluator, Questions
from virgo_ray.ledger.gatekeeper import (
    is_stopped,
    judge_again,
    refuse_bad_end,
    refuse_lost_end,
)
from virgo_ray.ledger.gates import find_gate
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.loop import Material, bring_back, finish_early, is_due, run_rounds
from virgo_ray.model.blank import blank_pictures
from virgo_ray.model.files import check_local, resolve_model
from virgo_ray.model.prompts import Prompter, find_writer
from virgo_ray.monitor.console import (
    TABLE_WIDTH,
    ConsoleScreen,
    describe_round,
    result_tables,
    summary,
)
from virgo_ray.monitor.metrics import Before, JsonlSink, Metrics
from virgo_ray.monitor.prometheus import samples
from virgo_ray.monitor.summary import round_entry, source_numbers, write_report
from virgo_ray.monitor.trackers import check_trackers, open_trackers
from virgo_ray.monitor.watch import (
    Monitor,
    WatchedEvaluator,
    WatchedRollouts,
    WatchedSampler,
    WatchedTrainer,
    WatchedVerifiers,
)
from virgo_ray.node.repair import require_ready
from virgo_ray.ports import Ports, Rollouts, Sampler, Sink, Store
from virgo_ray.records import Problem, Round, Weights
from virgo_ray.report.background import ReportWriter
from virgo_ray.report.noting import NotedTrainer
from virgo_ray.report.provenance import note_start
from virgo_ray.report.writing import NAME, PAGE
from virgo_ray.selection.measuring import measuring_for
from virgo_ray.selection.own import find_selector
from virgo_ray.selection.reinforcing import find_signal
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.teacher.local import LocalTeacher, check_teacher, teacher_weights
from virgo_ray.teacher.remote import RemoteTeacher, make_endpoint
from virgo_ray.traces.taking import find_taking
from virgo_ray.train.probing import choose_start
from virgo_ray.train.shape import read_shape
from virgo_ray.train.supported import check_base
from virgo_ray.train.work import count_work
from virgo_ray.verify.asking import add_judge, check_verifier
from virgo_ray.weights.probe import ProbeItem
from virgo_ray.weights.probe_items import keep_items
from virgo_ray.weights.retention import Retention

PROG = "python -m virgo_ray.run"
EXAMPLES_PER_STATUS = 4  # rollouts of a round that sinks show with their pictures


@dataclass(frozen=True)
class Inputs:
    """What was read and checked before any engine starts."""

    base: Weights
    material: Material
    heldout: Sequence[Problem]
    probes: Mapping[str, Sequence[Problem]]
    contents: CheckedContents
    teacher: Weights | None = None  # of `teacher.path`


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv, prog)
    # Ray's and W&B's processes are forked from this one and exec at once: no Lance call in between.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")

    def work() -> None:
        run(load_run_config(args.config, args.overrides))

    return exit_code(work, "interrupted; the same command resumes this run")


def load_run_config(path: str, overrides: Sequence[str]) -> Config:
    """The config of a new run, or of one that goes on: keys that are not set keep the values that
    the run was made with, and those that differ from today's defaults are named.

    Raises:
        ConfigError: not readable, not valid, or with keys that contradict each other.
    """
    opened = open_config(path, overrides)
    for remark in opened.remarks(path):
        print(remark)
    return opened.cfg


def run(cfg: Config) -> None:
    """Do, or go on with, the run that `cfg` describes.

    Raises:
        GateError: a gate ended it, or kept the base throughout; everything is reported before.
    """
    for _ in follow(cfg):
        pass


def follow(cfg: Config) -> Iterator[Round]:
    """Do as `run` does, and yield every round when it is complete; those that earlier starts
    completed come first. Closing it ends what was started."""
    refuse_connected()  # a second run would take the log from the one that is connected
    inputs = read_inputs(cfg)
    with ExitStack() as stack:
        ledger = stack.enter_context(closing(Ledger.open(cfg, inputs.base)))
        configure_logging(log_path(cfg.run_dir, DRIVER), shows_warnings=True)
        take_in_changes(cfg, ledger, inputs.contents)
        monitor, before = open_monitor(cfg, ledger, stack)
        note_start(Path(cfg.run_dir))
        reports = stack.enter_context(closing(ReportWriter(Path(cfg.run_dir), monitor.say)))
        for line in ledger.news:
            monitor.say(line)
        if judge_again(cfg.gates, ledger):
            newest = ledger.newest
            now = "rejected" if newest.is_rejected else "accepted"
            monitor.say(f"round {newest.label} was judged again by the limits of now: {now}")
            reports.begin()
        log_lost_rounds(ledger, monitor, before)
        refuse_lost_end(cfg.gates, cfg.rounds, ledger)
        yield from find_complete(cfg, ledger)
        retention = Retention(cfg.weights, Path(cfg.run_dir) / "weights")
        with reported(cfg, ledger, reports):
            yield from learn(
                cfg,
                inputs.material,
                ledger,
                lambda: machinery(cfg, inputs, ledger, monitor),
                partial(show, cfg, ledger, monitor, reports),
                partial(drop_old_weights, cfg, ledger, monitor, retention),
            )
    print_end(cfg, ledger)
    refuse_bad_end(cfg.gates, ledger)


@contextmanager
def reported(cfg: Config, ledger: Ledger, reports: ReportWriter) -> Iterator[None]:
    """Write both reports at the end of a run, also of one that gets no further."""
    barren: NoProgressError | None = None
    try:
        yield
    except NoProgressError as error:
        barren = error
    write_report(Path(cfg.run_dir), ledger.rounds(), ledger.weights)
    reports.finish()
    if barren is not None:
        raise barren


def find_complete(cfg: Config, ledger: Ledger) -> list[Round]:
    """The base and every round that is complete; the newest may wait for its evaluation."""
    *rounds, newest = ledger.rounds()
    is_open = newest.evaluation is None and is_due(cfg, newest)
    return rounds if is_open else [*rounds, newest]


def open_monitor(cfg: Config, ledger: Ledger, stack: ExitStack) -> tuple[Monitor, Before]:
    """Screen and sinks, each of which `stack` closes, also where a later one cannot be opened; and
    what earlier starts have logged."""
    screen = stack.enter_context(closing(ConsoleScreen()))
    jsonl = JsonlSink(Path(cfg.run_dir) / "metrics.jsonl")
    sinks = [stack.enter_context(closing(sink)) for sink in open_sinks(cfg, ledger, screen, jsonl)]
    monitor = Monitor(cfg.name, cfg.rounds, Metrics(sinks), screen, jsonl.before)
    return monitor, jsonl.before


def print_end(cfg: Config, ledger: Ledger) -> None:
    """The table of rounds, a sentence on them, and where everything lies."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, TABLE_WIDTH))
    for table in result_tables(ledger.rounds(), console.width):
        console.print(table)
    console.print(summary(ledger.rounds()))
    print(f"run directory:    {cfg.run_dir}\nreport:           {cfg.run_dir}/{NAME}/{PAGE}")
    print(f"final checkpoint: {ledger.weights.path}")


def read_inputs(cfg: Config) -> Inputs:
    """Model files, problems and seed thoughts, validated: what is quick to refuse comes first, then
    the data, and last the weights, which may have to be fetched.

    Raises:
        ConfigError: the model, the teacher, the custom verifier or the judge cannot be used.
        LedgerError: the run directory cannot be used, or belongs to another config.
        DataError: a row cannot be used.
    """
    require_ready()
    check_verifier(cfg.verify)
    check_own_functions(cfg)
    if cfg.teacher is not None and cfg.teacher.url is not None:
        make_endpoint(cfg.teacher)
    check_trackers(cfg.trackers)
    check_local(cfg.model.path)
    check_teacher(cfg)
    Ledger.check(cfg)
    prompter = Prompter(cfg.model, cfg.prompt)
    prompter.check_model()
    data = read_data(cfg, prompter)
    print("\n".join(data.account))
    base = Weights(0, resolve_model(cfg.model.path, cfg.model.trust_remote_code))
    for remark in check_base(cfg, base.path):
        print(remark)
    teacher = teacher_weights(cfg)
    blank = partial(blank_pictures, directory=Path(cfg.run_dir) / "blank")
    work = count_work(read_shape(base.path, cfg), cfg.train)
    material = Material(data.problems, data.seed_thoughts, prompter, blank, work)
    return Inputs(base, material, data.heldout, data.probes, data.contents, teacher)


def check_own_functions(cfg: Config) -> None:
    """Refuse functions of the user's that cannot be called, before anything starts.

    Raises:
        ConfigError: naming the key.
    """
    data = (cfg.data.train, cfg.data.heldout, cfg.data.seed_thoughts)
    for part in chain.from_iterable(source.parts or (source,) for source in data):
        if is_import_path(part.reader):
            find_reader(part.reader)
    if cfg.select.custom is not None:
        find_selector(cfg.select.custom)
    if cfg.prompt.custom is not None:
        find_writer(cfg.prompt.custom)
    for gate in (cfg.gates and cfg.gates.custom) or ():
        find_gate(gate)


def take_in_changes(cfg: Config, ledger: Ledger, checked: CheckedContents) -> None:
    """Leave rollouts aside whose problems changed, then keep the new contents.

    A round that is explored, but not trained, and that held such rollouts asks for them again. In
    this order: a start that dies in between finds the changes again, and nothing was sampled
    meanwhile.
    """
    if stale := checked.stale_problems:
        buffer = open_buffer(cfg, ledger)
        if not {o.problem_id for o in buffer.rows(ledger.next_round)}.isdisjoint(stale):
            ledger.reopen_round()
        num = buffer.set_aside(stale)
        ledger.commit_set_aside(buffer.seal(), len(stale), num)
        print(f"data.accept_changes: {num} rollouts about {len(stale)} changed problems left aside")
    checked.keep(Path(cfg.run_dir))


def learn(
    cfg: Config,
    material: Material,
    ledger: Ledger,
    machinery: Callable[[], AbstractContextManager[Ports]],
    show: Callable[[Round, Store], None],
    tidy: Callable[[], None],
) -> Iterator[Round]:
    """Do and yield all rounds that are left, and have the weights that are kept on disk; the
    machinery is started only if there is anything to do.

    `tidy` is called at the start and when a round is complete: a start that was killed before it
    left it to this one.
    """
    tidy()
    is_over = ledger.is_complete(cfg.rounds) or is_stopped(cfg.gates, ledger.newest)
    if is_over and not ledger.find_lost(ledger.weights):
        return
    taking = None
    if not is_over:
        taking = find_taking(cfg, material.problems, material.prompter, ledger)
    with machinery() as ports:
        if taking is not None:
            print(taking.take(ports, ledger))
        left: Iterable[Round] = () if is_over else run_rounds(cfg, ports, material, ledger)
        try:
            for done in left:
                show(done, ports.store)
                tidy()
                yield done
        except NoProgressError:  # no later round judges the newest; then the kept weights go to
            for done in finish_early(cfg, ports, material, ledger):  # disk, if memory has them
                show(done, ports.store)
                tidy()
                yield done
            ports.trainer.write_now(ledger.weights.version)
            raise
        bring_back(cfg, ledger.weights, ports, material, ledger)


@contextmanager
def machinery(cfg: Config, inputs: Inputs, ledger: Ledger, monitor: Monitor) -> Iterator[Ports]:
    """Engines, verifiers and trainers of a Ray cluster, with the base's probe written."""
    run_dir = Path(cfg.run_dir)
    store = open_buffer(cfg, ledger)
    begin_round(cfg, ledger, monitor)
    with connect_cluster(cfg) as dashboard:
        monitor.say(f"Ray dashboard: {dashboard}   run directory: {run_dir}")
        monitor.phase("start engines")
        with start_actors(
            cfg, monitor.step, monitor.watch, monitor.say, monitor.engine_is_up
        ) as actors:
            items = keep_items(run_dir / "weights", lambda: choose_probe(cfg, inputs))
            for weights in filter(None, (ledger.base, inputs.teacher)):
                actors.trainer.probe_base(weights, items)
            rollouts = WatchedRollouts(actors.rollouts, monitor)
            # The judge is asked about what may be trained on, not about held-out answers.
            judging = add_judge(actors.verifiers, cfg.verify, run_dir)
            evaluator = Evaluator(
                cfg,
                Questions(ledger.wandb_id, inputs.heldout, inputs.probes),
                rollouts,
                WatchedVerifiers(actors.verifiers, monitor),
                monitor.say,
            )
            yield Ports(
                rollouts=rollouts,
                verifiers=WatchedVerifiers(judging, monitor),
                trainer=WatchedTrainer(NotedTrainer(actors.trainer, run_dir), monitor),
                store=store,
                evaluator=WatchedEvaluator(evaluator, monitor),
                teacher=make_teacher(cfg, inputs, rollouts, monitor),
            )


def choose_probe(cfg: Config, inputs: Inputs) -> Sequence[ProbeItem]:
    """What every version of the weights will be asked about."""
    return choose_start(
        cfg.push.probe_tokens,
        cfg.model.max_length,
        inputs.material.prompter,
        inputs.heldout,
        inputs.material.seed_thoughts,
        Path(cfg.run_dir) / "probe",
    )


def begin_round(cfg: Config, ledger: Ledger, monitor: Monitor) -> None:
    """Tell the monitor which round comes next, and what was trained before it."""
    newest = ledger.newest
    is_open = newest.evaluation is None and is_due(cfg, newest)
    label = newest.label if is_open else ledger.next_round
    fits = [r.fit for r in ledger.rounds() if r.fit is not None and r.fit.num_steps]
    steps = sum(fit.num_steps for fit in fits)
    times = [r.seconds for r in find_complete(cfg, ledger) if r.number]
    monitor.round(label, steps, fits[-1] if fits else None, times)


def open_buffer(cfg: Config, ledger: Ledger) -> ReplayBuffer:
    version = ledger.committed_buffer_version
    return ReplayBuffer.open(
        Path(cfg.run_dir),
        version,
        store=cfg.store,
        owner=ledger.wandb_id,
        measuring=measuring_for(cfg.verify.formats, cfg.select),
    )


def make_teacher(
    cfg: Config, inputs: Inputs, rollouts: Rollouts, monitor: Monitor
) -> Sampler | None:
    """Who is asked in place of the model from round 1 on, if anybody."""
    if cfg.teacher is None:
        return None
    if inputs.teacher is not None:
        return LocalTeacher(rollouts, inputs.teacher, cfg.teacher.name)
    return WatchedSampler(RemoteTeacher.of(cfg, inputs.material.prompter), monitor)


def show(
    cfg: Config,
    ledger: Ledger,
    monitor: Monitor,
    reports: ReportWriter,
    done: Round,
    store: Store,
) -> None:
    """A complete round, to metrics, console and report; what is next begins."""
    monitor.round(done.label)
    monitor.end_phase()
    monitor.log_looks()
    log_round(monitor, done)
    log_signal(cfg, monitor, done, store)
    monitor.say(describe_round(done))
    for failure in done.failures:
        monitor.say(f"round {done.label} is rejected: {failure}")
    if done.evaluation is not None:
        examples = store.examples(done.number or 0, EXAMPLES_PER_STATUS)
        monitor.end_round(done, examples)
        reports.begin()
    begin_round(cfg, ledger, monitor)


def log_round(
    monitor: Monitor, done: Round, known: Set[tuple[str, int | None]] = frozenset()
) -> None:
    """The records of a complete round, without those of `known` (kind, round)."""
    entry = round_entry(done)
    del entry["round"]  # every record has it
    numbers = {f"heldout/{k}": v for k, v in entry.items() if isinstance(v, int | float)}
    sources = source_numbers(done)
    if ("round", done.number) not in known:
        monitor.event("round", **numbers)
    if sources and ("sources", done.number) not in known:
        monitor.event("sources", **sources)
    if ("gate", done.number) not in known:
        for failure in done.failures:
            monitor.event("gate", **{f"gate/{k}": v for k, v in asdict(failure).items()})


def log_lost_rounds(ledger: Ledger, monitor: Monitor, before: Before) -> None:
    """What earlier starts did not log of evaluated rounds: killed after the ledger's commit."""
    for done in ledger.rounds():
        if done.evaluation is not None:
            monitor.round(done.label)
            log_round(monitor, done, before.complete)


def log_signal(cfg: Config, monitor: Monitor, done: Round, store: Store) -> None:
    """How much the groups of a round of reinforcement said."""
    if cfg.train.objective.is_reinforcement and done.number:
        signal = find_signal(cfg.train.objective, store.groups(done.number))
        monitor.event("groups", signal_share=signal.share, **asdict(signal))


def drop_old_weights(cfg: Config, ledger: Ledger, monitor: Monitor, retention: Retention) -> None:
    """What `weights.keep_last` leaves no need for goes, and what that freed is said.

    Raises:
        WeightsError: the file system refused.
    """
    if freed := retention.apply(ledger.rounds(), ledger.asked_weights):
        num_bytes = sum(f.num_bytes for f in freed)
        monitor.round(ledger.newest.label)  # which made them old, also where an earlier start died
        monitor.event("weights", num_dropped=len(freed), freed_gb=num_bytes / 1e9)
        monitor.say(
            f"weights.keep_last={cfg.weights.keep_last}: the tensors of "
            f"{', '.join(f'v{f.version:04d}' for f in freed)} were dropped, which freed "
            f"{num_bytes / 1e9:.2f} GB"
        )
        begin_round(cfg, ledger, monitor)


def open_sinks(
    cfg: Config, ledger: Ledger, screen: ConsoleScreen, jsonl: JsonlSink
) -> Iterator[Sink]:
    """JSONL and Ray always; W&B unless disabled; trackers that the config names. Each is opened
    when it is asked for."""
    yield from (jsonl, RayMetricsSink(cfg.name, samples), JobProgressSink(cfg.name, cfg.rounds))
    if cfg.wandb.mode != "disabled":
        from virgo_ray.monitor.wandb_sink import WandbSink

        yield WandbSink(cfg, ledger.wandb_id, screen.say, jsonl.before)
    yield from open_trackers(cfg, ledger.wandb_id, screen.say, jsonl.before)


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Teach a vision-language model to think slowly about images. The same command "
        "on the same run directory resumes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        epilog="examples:\n"
        f"  {prog} configs/tiny.yaml\n"
        f"  {prog} configs/tiny.yaml seed=1 run_dir=runs/tiny-seed1\n"
        "  ray job submit --working-dir . -- python -m virgo_ray.run configs/iterative.yaml\n\n"
        "config keys (default): meaning\n\n" + describe_core_keys(),
    )
    parser.add_argument("-h", "--help", action=KeysHelp)
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/tiny.yaml")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="override a key, such as train.lr=3e-4"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
