"""`virgo-ray init FILE --from NAME`: a config of one's own, with a comment on every key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.command import exit_code
from virgo_ray.config.shipped import list_shipped
from virgo_ray.config.writing import commented_config
from virgo_ray.errors import ConfigError
from virgo_ray.files import write_atomically

PROG = "python -m virgo_ray.api.init"
DEFAULT = "single_node"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    options = parse_args(argv, prog)
    return exit_code(lambda: write_config(Path(options.file), options.source))


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a config of your own: what a shipped config says, in one file, with the "
        "meaning of every key beside it.",
        epilog=f"shipped configs: {', '.join(list_shipped())}",
    )
    parser.add_argument("file", metavar="FILE", help="the YAML file to write, such as my.yaml")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NAME",
        default=DEFAULT,
        help=f"the shipped config, or the file, that it begins as (default: {DEFAULT})",
    )
    return parser.parse_args(argv)


def write_config(path: Path, source: str) -> None:
    """Write a commented config, named after its file.

    Raises:
        ConfigError: the file exists or is no YAML file, or there is no such source.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"FILE={str(path)!r}: expected a name that ends in .yaml, as my.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another name, or remove it")
    text = commented_config(source, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    print(
        f"{path}: written. Set its model.path and data, then: virgo-ray inspect {path}, "
        f"virgo-ray plan {path}, virgo-ray run {path}"
    )


if __name__ == "__main__":
    sys.exit(main())
