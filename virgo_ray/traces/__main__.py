"""`python -m virgo_ray.traces stats|list|show|export|regrade|repair|diff RUN`: what a run stored.

RUN is a run directory or the address of a store (`s3://bucket/run.lance`). Only `regrade --write`
and `repair --write` change anything; the others may look at a run that is going on. Exit codes: 0
well; 2 the request is wrong; 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing

from virgo_ray.command import exit_code
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.selection import stopping_rule
from virgo_ray.stats.stopping import FIXED
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.traces import diff, export_command, listing, regrade, repair, show, stats
from virgo_ray.traces.source import find_run
from virgo_ray.traces.table import new_console

PROG = "python -m virgo_ray.traces"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    options = parse(arguments, prog)
    return exit_code(lambda: COMMANDS[options.command](options))


def stats_command(options: argparse.Namespace) -> None:
    run = find_run(options.run)
    rule = FIXED if run.cfg is None else stopping_rule(run.cfg.explore)
    found = stats.collect(run.reader(), options.round, rule)
    _out(options, found.as_json(), lambda: stats.print_stats(new_console(), found))


def list_command(options: argparse.Namespace) -> None:
    reader = find_run(options.run).reader()
    wanted = listing.wanted_of(options)
    page = listing.find_page(reader, wanted, options.offset, options.limit)
    _out(options, page.as_json(), lambda: listing.print_page(new_console(), page))


def show_command(options: argparse.Namespace) -> None:
    reader = find_run(options.run).reader()
    found = show.find(reader, options.round, options.problem, options.sample)
    _out(
        options,
        show.as_json(found, options.round),
        lambda: show.print_rollouts(new_console(), found, options.round),
    )


def diff_command(options: argparse.Namespace) -> None:
    run, rounds = find_run(options.run), options.rounds or []
    chosen: list[list[int] | None]
    if len(rounds) > 2 or (options.other is None and len(rounds) != 2):
        raise ConfigError(
            f"--rounds {' '.join(map(str, rounds))}: expected two rounds of one run, such as "
            "--rounds 1 2, or two runs and none, one or two rounds"
        )
    if options.other is None:
        readers, names = [run.reader()] * 2, [f"round {t}" for t in rounds]
    else:
        readers, names = [run.reader(), find_run(options.other).reader()], [run.name, options.other]
    chosen = [[rounds[0]], [rounds[-1]]] if rounds else [None, None]
    sides = [
        diff.read_side(reader, wanted, keep_rounds=wanted is None)
        for reader, wanted in zip(readers, chosen, strict=True)
    ]
    found = diff.compare(*sides)
    _out(
        options,
        found.as_json(),
        lambda: diff.print_diff(new_console(), found, (names[0], names[1])),
    )


def regrade_command(options: argparse.Namespace) -> None:
    run = find_run(options.run)
    cfg = run.needed_config("judging")
    num_workers = options.workers or cfg.verify.num_workers
    if not options.write:
        with regrade.regrade(run.reader(), cfg.verify, num_workers) as found:
            _out(options, found.summary(), lambda: regrade.print_findings(new_console(), found))
        print("nothing was written; --write replaces the changed verdicts", file=sys.stderr)
        return
    assert run.directory is not None  # it has a config
    with closing(Ledger.reopen(run.directory)) as ledger:
        buffer = ReplayBuffer.open(
            run.directory,
            ledger.committed_buffer_version,
            store=cfg.store,
            owner=ledger.wandb_id,
        )
        regrade.refuse_half_explored(ledger, buffer)
        regrade.refuse_unwritten(ledger)
        with regrade.regrade(buffer, cfg.verify, num_workers) as found:
            _out(options, found.summary(), lambda: regrade.print_findings(new_console(), found))
            num = regrade.write(buffer, ledger, found) if found.num_changed else 0
    print(f"{num} rows were written; the verdicts before are kept", file=sys.stderr)


def repair_command(options: argparse.Namespace) -> None:
    run = find_run(options.run)
    cfg = run.needed_config("a repair")
    assert run.directory is not None  # it has a config
    if options.write:
        with closing(Ledger.reopen(run.directory)) as ledger:
            damage, said = repair.repair(run.directory, cfg.store, ledger)
    else:
        damage, said = repair.look(run.directory, cfg.store), []
    print(repair.describe(damage, said, options.write))


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "stats": stats_command,
    "list": list_command,
    "show": show_command,
    "export": export_command.export_command,
    "regrade": regrade_command,
    "diff": diff_command,
    "repair": repair_command,
}


def _out(options: argparse.Namespace, found: object, print_it: Callable[[], None]) -> None:
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print_it()


def parse(arguments: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Look at, export or judge again what a run stored.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, has_json: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.add_argument("run", metavar="RUN", help="run directory, or address of a store")
        if has_json:
            made.add_argument("--json", action="store_true", help="print JSON instead of tables")
        return made

    made = command("stats", "Counts by round, source, status and pass rate.")
    made.add_argument("--round", type=int, action="append", help="only this one; may be repeated")

    listing.add_options(command("list", "Rollouts by status, source, pass rate and more."))

    made = command("show", "A problem's rollouts in a round, or one of them whole.")
    made.add_argument("round", type=int)
    made.add_argument("problem", help="problem id")
    made.add_argument("sample", type=int, nargs="?", help="sample index; without it: a list")

    export_command.add_options(command("export", export_command.HELP, False))

    made = command("regrade", "Judge everything again with the verifier of today.")
    made.add_argument("--write", action="store_true", help="replace the verdicts that change")
    made.add_argument("--workers", type=int, help="judging processes (default: verify.num_workers)")

    made = command("repair", "Compare every file of the store with its checksum.", False)
    made.add_argument("--write", action="store_true", help="drop what is damaged")

    made = command("diff", "What differs between two rounds of a run, or between two runs.")
    made.add_argument("other", metavar="OTHER", nargs="?", help="another run")
    made.add_argument("--rounds", type=int, nargs="+", metavar="ROUND", help="which to compare")
    options = parser.parse_args(arguments)
    if options.command == "export" and options.out is None and options.push_to_hub is None:
        parser.error("export needs --out PATH, or --push-to-hub OWNER/NAME")
    return options


if __name__ == "__main__":
    sys.exit(main())
