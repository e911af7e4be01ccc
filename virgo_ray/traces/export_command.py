"""The command `traces export`: from its options to files, and the account of what was left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.hub.content import publishable
from virgo_ray.hub.push import Repository, find_token, push
from virgo_ray.selection.training_set import choose_traces
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces import export, rows
from virgo_ray.traces.chosen import config_for, later_changes, num_seeds_of
from virgo_ray.traces.seeds import count_seeds, seeds_of
from virgo_ray.traces.source import Run, find_run

HELP = "Accepted traces as training data for other programs."
FORMATS_HELP = (
    "jsonl, hf and parquet: all columns; trl: prompt and completion; dpo: right against wrong "
    "rollouts; llamafactory: sharegpt"
)

PUBLISHED = ("README.md", "data/*.parquet")


def add_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--format", choices=list(export.FORMATS), required=True, help=FORMATS_HELP)
    made.add_argument(
        "--out",
        help="new file (jsonl, or a name that ends with .parquet) or directory; may be left out "
        "with --push-to-hub",
    )
    made.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export, there and on the hub"
    )
    made.add_argument("--round", type=int, action="append", help="only this one; may be repeated")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="also what was not accepted")
    which.add_argument(
        "--chosen", type=int, metavar="ROUND", help="only what round ROUND was trained on"
    )
    made.add_argument(
        "--seed-thoughts",
        action="store_true",
        help="with --chosen: also the seed thoughts that the round was trained on",
    )
    made.add_argument(
        "--pairs",
        type=positive,
        metavar="NUM",
        help="with --format dpo: at most NUM pairs of each problem and round; default: all",
    )
    made.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="publish the export as a data set, made private; the token is taken from HF_TOKEN",
    )
    made.add_argument("--public", action="store_true", help="let everybody read the data set")


def export_command(options: argparse.Namespace) -> None:
    run = find_run(options.run)
    cfg, reader = run.needed_config("the prompt of an export"), run.reader()
    refuse_contradictions(options)
    hub = find_hub(options)
    work, num_traces = plan(cfg, run, reader, options)
    with TemporaryDirectory(prefix="virgo-export-") as draft:
        out = Path(options.out).expanduser() if options.out else Path(draft) / "export"
        export.write(work, options.format, out, options.overwrite)
        where = options.out or "a draft"
        print(f"{work.num_written} {unit(options.format)} written to {where} ({options.format})")
        if hub is not None:
            files, _ = publishable(out, PUBLISHED)
            print(f"published at {push(hub, files, 'Traces, exported by virgo_ray')}")
    report(work)
    if options.chosen is not None and not options.seed_thoughts and options.format != "dpo":
        print(missing_seeds(config_for(cfg, run, options.chosen), run, options.chosen, num_traces))
    if options.chosen is not None:
        for note in later_changes(run, reader, options.chosen):
            print(f"note: {note}")


def find_hub(options: argparse.Namespace) -> Repository | None:
    """Where the export is published too.

    Raises:
        ConfigError: the name is none, or there is no token.
    """
    if options.push_to_hub is None:
        return None
    repository = Repository(options.push_to_hub, "dataset", options.public, options.overwrite)
    find_token(repository)
    return repository


def refuse_contradictions(options: argparse.Namespace) -> None:
    """
    Raises:
        ConfigError: options that mean nothing together.
    """
    if options.push_to_hub is not None and options.format not in export.WITH_CARD:
        raise ConfigError(
            f"--format {options.format} names files of this machine or needs a reader of its own; "
            f"expected one of {', '.join(export.WITH_CARD)} with --push-to-hub"
        )
    if options.push_to_hub is not None and str(options.out).endswith(".parquet"):
        raise ConfigError(
            f"--out {options.out} is one file, and a data set on the hub is a directory with a "
            "card; name a directory, or leave --out away"
        )
    if options.seed_thoughts and options.chosen is None:
        raise ConfigError(
            "--seed-thoughts without --chosen: expected --chosen ROUND, whose seed thoughts they "
            "are"
        )
    if options.pairs is not None and options.format != "dpo":
        raise ConfigError(
            f"--pairs {options.pairs} with --format {options.format}: only --format dpo has pairs; "
            "leave one of them away"
        )
    if options.format == "dpo" and (options.all or options.seed_thoughts):
        raise ConfigError(
            "--format dpo pairs right with wrong rollouts; expected neither --all nor "
            "--seed-thoughts"
        )


def plan(
    cfg: Config, run: Run, reader: TraceReader, options: argparse.Namespace
) -> tuple[export.Export, int]:
    """What is to be written, and how many traces are among it."""
    chosen, then = None, cfg
    if options.chosen is not None:
        then = config_for(cfg, run, options.chosen)
        refuse_groups(then, options.chosen)
        chosen = frozenset(c.key for c in choose_traces(then, options.chosen, reader))
    wanted = rows.Wanted(options.round, not options.all, chosen, options.chosen)
    num_traces = len(chosen or ())
    if options.format == "dpo":
        pairs, left_out = rows.take_pairs(reader, wanted, options.pairs)
        found = rows.read_pairs(reader, pairs)
        return export.Export(cfg, pairs=found, left_out=left_out), num_traces
    taken = rows.take(reader, wanted)
    seeds = seed_rows(then, run, options.chosen, num_traces) if options.seed_thoughts else ()
    found_rows = chain(seeds, rows.read_rows(reader, taken.keys, taken.rounds))
    return export.Export(cfg, found_rows, left_out=taken.left_out), num_traces


def refuse_groups(cfg: Config, t: int) -> None:
    """
    Raises:
        ConfigError: round `t` did not learn from chosen traces.
    """
    if cfg.train.objective.is_reinforcement and t > 0:
        raise ConfigError(
            f"round {t} was trained with train.objective.name={cfg.train.objective.name}: on whole "
            "groups of rollouts, wrong ones included, which --chosen does not tell; expected "
            f"--round {t}, with --all for wrong ones too"
        )


def seed_rows(cfg: Config, run: Run, t: int, num_traces: int) -> Iterator[rows.Row]:
    assert run.directory is not None  # it has a config
    for seed in seeds_of(cfg, t, num_traces, num_seeds_of(run, t), run.directory):
        yield rows.seed_row(seed, t)


def missing_seeds(cfg: Config, run: Run, t: int, num_traces: int) -> str:
    """That a training set has more than its traces."""
    assert run.directory is not None  # it has a config
    num = count_seeds(cfg, t, num_traces, num_seeds_of(run, t), run.directory)
    if num == 0:
        return f"round {t} was trained on these traces alone, without seed thoughts"
    known = "an unknown number of" if num is None else str(num)
    return (
        f"{known} seed thoughts belong to the training set of round {t} too and are not in this "
        "export; --seed-thoughts adds them"
    )


def report(work: export.Export) -> None:
    """What was left out and what to know of the rest."""
    for line in lines(work.left_out.items()):
        print(f"left out: {line}")
    for line in lines(work.notes.items()):
        print(f"note: {line}")
    if work.num_missing_images:
        print(f"{work.num_missing_images} pictures are no files any more", file=sys.stderr)


def lines(counts: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{num} {reason}" for reason, num in sorted(counts)]


def positive(text: str) -> int:
    """
    Raises:
        ArgumentTypeError: it is no whole number above 0.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number above 0")
    return int(text)


def unit(format: str) -> str:
    return "pairs" if format == "dpo" else "rollouts"
