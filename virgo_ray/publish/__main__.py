"""`virgo-ray publish RUN [--round N] --push-to-hub OWNER/NAME`: a run's weights, for others.

Without --push-to-hub the files are checked and listed, and nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.command import exit_code
from virgo_ray.hub.push import Repository, find_token, push
from virgo_ray.publish.weights import checkpoint_files, find_checkpoint

PROG = "python -m virgo_ray.publish"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    options = parse(arguments, prog)
    return exit_code(lambda: publish(options))


def publish(options: argparse.Namespace) -> None:
    repository = None
    if options.push_to_hub is not None:
        repository = Repository(options.push_to_hub, "model", options.public, options.overwrite)
        find_token(repository)
    run = Path(options.run).expanduser()
    found, directory = find_checkpoint(run, options.round)
    files, staying = checkpoint_files(run, directory)
    size = sum(file.size for file in files)
    print(f"round {found.number} of {run}: {len(files)} files, {size / 1e6:,.1f} MB")
    for file in files:
        print(f"  {file.name}")
    print(f"not published: {', '.join(staying)}")
    for failure in found.failures:
        print(f"note: this round is rejected: {failure}")
    if repository is None:
        print("nothing was sent; --push-to-hub OWNER/NAME publishes them, private")
        return
    where = push(repository, files, f"Round {found.number}, trained by virgo_ray")
    print(f"published at {where}")


def parse(arguments: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description="Publish the weights of a run on the Hugging Face hub."
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--round", type=int, metavar="N", help="which one (default: the newest that gates accepted)"
    )
    add_hub_options(parser)
    return parser.parse_args(arguments)


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="repository to publish in, made private; the token is taken from HF_TOKEN",
    )
    parser.add_argument("--public", action="store_true", help="let everybody read the repository")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an existing repository holds"
    )


if __name__ == "__main__":
    sys.exit(main())
