"""`python -m virgo_ray.report RUN [--out DIR] [--serve]`: every rollout of a run, in a browser.

RUN is a run directory, also of a run that is going on. Exit codes: 0 well; 2 the request is wrong;
1 anything else.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.command import exit_code
from virgo_ray.errors import ConfigError
from virgo_ray.report.serving import HOST, make_server
from virgo_ray.report.writing import write_report
from virgo_ray.traces.source import find_run

PROG = "python -m virgo_ray.report"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    options = parse(arguments, prog)
    return exit_code(lambda: report(options))


def report(options: argparse.Namespace) -> None:
    """Write it, say where it lies, and serve it where that was asked for."""
    run_dir = find_run(options.run).directory
    if run_dir is None:
        raise ConfigError(f"{options.run!r} is the address of a store; expected a run directory")
    written = write_report(run_dir, options.out, options.seconds)
    print(f"report: {written.page} ({written.num_rollouts:,} rollouts)")
    for part in written.left:
        print(f"there was no time for {part}: `virgo-ray report {options.run}` writes the rest")
    if options.serve:
        serve(written.page.parent, options)


def serve(folder: Path, options: argparse.Namespace) -> None:
    """Answer until the process is interrupted.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = make_server(folder, find_run(options.run).place, options.port)
    except OSError as error:
        raise ConfigError(f"--port {options.port}: {error}; choose another, or 0 for any") from None
    with server:
        print(f"open http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def parse(arguments: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description="Write the report of a run: pages that open from disk."
    )
    parser.add_argument("run", metavar="RUN", help="run directory, also of a run that goes on")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: RUN/report)"
    )
    parser.add_argument(
        "--serve", action="store_true", help="serve it on 127.0.0.1, with a search over all texts"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of --serve (default: 0, any that is free)"
    )
    parser.add_argument(
        "--seconds", type=float, help="stop soon after as many; the next call writes the rest"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
