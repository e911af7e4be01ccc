"""`virgo-ray doctor [CONFIG] [key=value ...]`: what is not fit for a run here, and what to do.

Without a config the machine is examined; with one also what its run would use. Joins the cluster
that the run would join; where none is named, one is started and ended. Changes nothing but for
small files, which it removes. Exit codes: 0 all is well; 1 there is something to do; 2 the config
is wrong; 3 nothing to do, but something that the run needs could not be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from virgo_ray.actors.cluster import join_cluster
from virgo_ray.command import exit_code as command_exit_code
from virgo_ray.config import open_config
from virgo_ray.doctor import cluster, disk, host, inputs, keys, ports, services
from virgo_ray.doctor.findings import Finding, Status, examine, exit_code, guard, well
from virgo_ray.doctor.show import as_json, last_line, lines_of
from virgo_ray.doctor.subject import Subject

PROG = "python -m virgo_ray.doctor"
RAY_ADVICE = "look at the load of this machine, and at the logs in /tmp/ray/session_latest/logs"
MACHINE = (*disk.CHECKS, *ports.CHECKS, *services.CHECKS)
RUN = (*keys.RUN_CHECKS, *disk.RUN_CHECKS, *services.RUN_CHECKS, *inputs.RUN_CHECKS)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    args = parse_args(argv, prog)
    return command_exit_code(lambda: examine_all(args))


def examine_all(args: argparse.Namespace) -> int:
    """Print one line after the other, or all as JSON; the exit code is by the worst."""
    opened = open_config(args.config, args.overrides) if args.config else None
    if opened is not None and not args.json:
        print("".join(f"{remark}\n" for remark in opened.remarks(args.config)), end="")
    found = []
    for finding in findings(Subject(opened.cfg if opened else None)):
        found.append(finding)
        if not args.json:
            print(lines_of(finding), flush=True)
    print(as_json(found) if args.json else f"\n{last_line(found)}")
    return exit_code(found)


def findings(subject: Subject) -> Iterator[Finding]:
    """Every check, the quick ones first; after the model comes what needs its files."""
    needs_gpu_here = subject.uses_gpus and subject.started_here
    yield from (examine(check, needs_gpu_here) for check in host.CHECKS)
    yield from (examine(check, subject) for check in MACHINE)
    yield from look_at_cluster(subject)
    checks = RUN if subject.cfg is not None else inputs.CHECKS
    yield from (examine(check, subject) for check in checks)


def look_at_cluster(subject: Subject) -> Iterator[Finding]:
    """Ray is joined in the main thread, which its own handling of signals needs."""
    with ExitStack() as stack:
        joined = guard(lambda s: join(s, stack), subject, "Ray could not be joined", RAY_ADVICE)
        if joined.status is not Status.OK:
            yield from cluster.without_cluster(joined)
            return
        yield from (examine(check, subject) for check in cluster.CHECKS)


def join(subject: Subject, stack: ExitStack) -> Finding:
    is_frugal = not subject.uses_gpus
    subject.dashboard = stack.enter_context(join_cluster(subject.ray, is_frugal))
    return well("joined")


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Look whether this machine, its cluster and a config are fit for a run, and "
        "say what to do. Exit code: 0 all is well, 1 something to do, 2 the config is wrong, 3 "
        "something needed could not be checked.",
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a YAML file of a run")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="override a key")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
