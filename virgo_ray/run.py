"""`python -m virgo_ray.run CONFIG [key=value ...]`: one YAML file in, a slowly thinking model out.

Everything that can be refused is refused before an engine starts. The same command on the same run
directory goes on where it was. Exit codes: 0 the run ended well and `report.json` is complete;
2 the config or the data are wrong; 1 anything else, a round that failed its gates included (then
`report.json` goes as far as the run came); 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from virgo_ray.actors.cluster import connected, started
from virgo_ray.actors.ray_metrics import RayMetricsSink
from virgo_ray.command import end_on_sigterm, exit_code
from virgo_ray.config import Config, describe_keys, load_config, resolve_run_dir
from virgo_ray.data.ingest import read_data
from virgo_ray.evaluate import Evaluator
from virgo_ray.ledger.gatekeeper import commit_evaluation, is_stopped, judge_again, refuse_bad_end
from virgo_ray.ledger.ledger import Ledger, RoundReport
from virgo_ray.loop import Material, run_rounds
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.monitor.console import TABLE_WIDTH, ConsoleScreen, result_table, summary
from virgo_ray.monitor.html import write_html
from virgo_ray.monitor.metrics import JsonlSink, Metrics
from virgo_ray.monitor.summary import round_entry, write_report
from virgo_ray.monitor.watch import (
    Monitor,
    WatchedRollouts,
    WatchedSampler,
    WatchedTrainer,
    WatchedVerifiers,
)
from virgo_ray.ports import Ports, Sink
from virgo_ray.records import Problem, Weights
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.teacher.local import LocalTeacher, teacher_weights
from virgo_ray.teacher.remote import RemoteTeacher, endpoint_of
from virgo_ray.verify.asking import add_judge, check_verifier

EXAMPLES_PER_STATUS = 4  # rollouts shown in report.html


@dataclass(frozen=True)
class Inputs:
    """What was read and checked before any engine starts."""

    base: Weights
    material: Material
    heldout: Sequence[Problem]
    probes: Mapping[str, Sequence[Problem]]
    teacher: Weights | None = None  # of `teacher.path`


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    end_on_sigterm()
    # Ray's and W&B's processes are forked from this one and exec at once: no Lance call in between.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")

    def work() -> None:
        cfg = load_config(args.config, args.overrides)
        run(cfg.model_copy(update={"run_dir": str(resolve_run_dir(cfg.run_dir))}))

    return exit_code(work, "interrupted; the same command resumes this run")


def run(cfg: Config) -> None:
    """Do, or go on with, the run that `cfg` describes.

    Raises:
        GateError: a gate ended it, or kept the base throughout; everything is reported before.
    """
    inputs = read_inputs(cfg)
    ledger = Ledger.open(cfg, inputs.base)
    screen = ConsoleScreen()
    jsonl = JsonlSink(Path(cfg.run_dir) / "metrics.jsonl")
    metrics = Metrics(open_sinks(cfg, ledger, screen, jsonl))
    try:
        monitor = Monitor(cfg.name, cfg.rounds, metrics, screen, jsonl.last_train_step)
        if judge_again(cfg.gates, ledger):
            write_page(cfg, ledger, open_buffer(cfg, ledger))
        if not ledger.is_complete(cfg.rounds) and not is_stopped(cfg.gates, ledger):
            learn(cfg, inputs, ledger, monitor)
        report = write_report(ledger, Path(cfg.run_dir))
    finally:
        metrics.close()
        screen.close()
        ledger.close()
    console = Console(highlight=False, width=max(Console().width, TABLE_WIDTH))
    console.print(result_table(report["rounds"]))
    console.print(summary(report["rounds"]))
    print(f"run directory:    {cfg.run_dir}\nreport:           {cfg.run_dir}/report.html")
    print(f"final checkpoint: {report['final_checkpoint']}")
    refuse_bad_end(cfg.gates, ledger)


def read_inputs(cfg: Config) -> Inputs:
    """Model files, problems and seed thoughts, validated.

    Raises:
        ConfigError: the model, the teacher, the custom verifier or the judge cannot be used.
        LedgerError: the run directory cannot be used, or belongs to another config.
        DataError: a row cannot be used.
    """
    check_verifier(cfg.verify)
    if cfg.teacher is not None and cfg.teacher.url is not None:
        endpoint_of(cfg.teacher)
    teacher = teacher_weights(cfg)
    base = Weights(0, resolve_model(cfg.model.path, cfg.model.trust_remote_code))
    prompter = Prompter(cfg.model, cfg.prompt)
    prompter.check_model()
    Ledger.check(cfg)
    data = read_data(cfg, prompter)
    material = Material(data.problems, data.seed_thoughts, prompter)
    return Inputs(base, material, data.heldout, data.probes, teacher)


def learn(cfg: Config, inputs: Inputs, ledger: Ledger, monitor: Monitor) -> None:
    """All rounds that are not done yet, each followed by its evaluation, until a gate ends it."""
    run_dir = Path(cfg.run_dir)
    evaluator = Evaluator(cfg, inputs.heldout, ledger.wandb_id, inputs.probes, monitor.say)
    buffer = open_buffer(cfg, ledger)
    with connected(cfg) as dashboard:
        monitor.say(f"Ray dashboard: {dashboard}   run directory: {run_dir}")
        monitor.phase("start engines")
        with started(cfg, monitor.step, monitor.watch_memory) as (engines, trainer):
            for weights in filter(None, (ledger.base, inputs.teacher)):
                trainer.probe_base(weights, inputs.material.problems[:2])
            ports = watched(engines, monitor)
            # The judge is asked about what may be trained on, not about held-out answers.
            asking = replace(engines, verifiers=add_judge(engines.verifiers, cfg.verify, run_dir))
            exploring = with_teacher(watched(asking, monitor), cfg, inputs, monitor)
            for report in announced(
                run_rounds(cfg, exploring, inputs.material, buffer, ledger), ledger, monitor
            ):
                if not ledger.is_evaluated(report.label):
                    monitor.phase("evaluate")
                    result = known_of(ledger, report) or evaluator.run(
                        ports.rollouts, ports.verifiers, report.weights
                    )
                    commit_evaluation(cfg.gates, ledger, report.label, result)
                    monitor.log_memory()
                    show(ledger, report, monitor)
                    write_page(cfg, ledger, buffer)
                if is_stopped(cfg.gates, ledger):
                    return


def open_buffer(cfg: Config, ledger: Ledger) -> ReplayBuffer:
    version = ledger.committed_buffer_version
    return ReplayBuffer.open(Path(cfg.run_dir), version, store=cfg.store, owner=ledger.wandb_id)


def announced(
    reports: Iterator[RoundReport], ledger: Ledger, monitor: Monitor
) -> Iterator[RoundReport]:
    """Tell the monitor which round each piece of work belongs to."""
    monitor.round(ledger.report().label)
    for report in reports:
        monitor.round(report.label)
        yield report
        steps = sum(int(r.training.get("num_steps", 0)) for r in ledger.reports())
        monitor.round(ledger.next_round, train_steps_before=steps)


def known_of(ledger: Ledger, report: RoundReport) -> Mapping[str, Any] | None:
    """The base's result for a round that trained nothing."""
    is_base = report.round is not None and report.weights == ledger.base
    return ledger.evaluation("base") if is_base else None


def watched(ports: Ports, monitor: Monitor) -> Ports:
    return Ports(
        WatchedRollouts(ports.rollouts, monitor),
        WatchedVerifiers(ports.verifiers, monitor),
        WatchedTrainer(ports.trainer, monitor),
    )


def with_teacher(ports: Ports, cfg: Config, inputs: Inputs, monitor: Monitor) -> Ports:
    """`ports`, whose explorations ask the teacher of `cfg` if there is one."""
    if cfg.teacher is None:
        return ports
    if inputs.teacher is not None:
        return replace(
            ports, teacher=LocalTeacher(ports.rollouts, inputs.teacher, cfg.teacher.name)
        )
    remote = RemoteTeacher.of(cfg, inputs.material.prompter)
    return replace(ports, teacher=WatchedSampler(remote, monitor))


def show(ledger: Ledger, report: RoundReport, monitor: Monitor) -> None:
    """One committed and evaluated round, to metrics and console."""
    entry = round_entry(ledger, report)
    numbers = {f"heldout/{k}": v for k, v in entry.items() if isinstance(v, int | float)}
    monitor.event("round", **numbers)
    blank = entry["blank_image_pass_at_1"]
    monitor.say(
        f"round {report.label}: held-out pass@1 {entry['pass_at_1']:.1%}, "
        f"pass@{entry['k']} {entry['pass_at_k']:.1%}, "
        f"thought length {entry['mean_thought_tokens']:.0f} tokens, "
        f"long format {entry['long_format_share']:.0%}, "
        f"blank image {'-' if blank is None else format(blank, '.1%')}, "
        f"accepted {entry['accepted']} of {entry['asked']}"
    )
    for failure in ledger.gate_failures(report.label):
        monitor.event("gate", **{f"gate/{k}": v for k, v in asdict(failure).items()})
        monitor.say(f"round {report.label} is rejected: {failure}")


def write_page(cfg: Config, ledger: Ledger, buffer: ReplayBuffer) -> None:
    """`report.html` as far as the run has come, with rollouts of the newest round."""
    entries = [round_entry(ledger, r) for r in ledger.reports() if ledger.is_evaluated(r.label)]
    examples = buffer.examples(ledger.next_round - 1, EXAMPLES_PER_STATUS)
    write_html(Path(cfg.run_dir), cfg.name, entries, examples, ledger.weights.path)


def open_sinks(cfg: Config, ledger: Ledger, screen: ConsoleScreen, jsonl: JsonlSink) -> list[Sink]:
    """JSONL and Ray always; W&B unless disabled."""
    sinks: list[Sink] = [jsonl, RayMetricsSink(cfg.name)]
    if cfg.wandb.mode != "disabled":
        from virgo_ray.monitor.wandb_sink import WandbSink

        sinks.append(WandbSink(cfg, ledger.wandb_id, screen.say, jsonl.num_records))
    return sinks


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m virgo_ray.run",
        description="Teach a vision-language model to think slowly about images. The same command "
        "on the same run directory resumes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m virgo_ray.run configs/tiny.yaml\n"
        "  python -m virgo_ray.run configs/tiny.yaml seed=1 run_dir=runs/tiny-seed1\n"
        "  ray job submit --working-dir . -- python -m virgo_ray.run configs/iterative.yaml\n\n"
        "config keys (default): meaning\n" + describe_keys(),
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/tiny.yaml")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="override a key, such as train.lr=3e-4"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
