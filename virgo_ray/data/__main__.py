"""`python -m virgo_ray.data inspect CONFIG [key=value ...]`: what a run would read, before it runs.

Starts no engine. Exit codes: 0 strict mode would accept the data; 1 it would refuse them; 2 the
config is wrong or a source cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.command import exit_code
from virgo_ray.config import Config, load_config, resolve_run_dir
from virgo_ray.data.contents import check_contents
from virgo_ray.data.ingest import QUARANTINE, Intake, survey, write_account
from virgo_ray.data.inspection import describe_intake
from virgo_ray.errors import DataError
from virgo_ray.model.prompts import Prompter
from virgo_ray.selection.guessing import name_unbelievable

PROG = "python -m virgo_ray.data"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    args = parse_args(argv, prog)
    return exit_code(lambda: inspect(args.config, args.overrides))


def inspect(config: str, overrides: Sequence[str]) -> int:
    """Print the page and write the account; 1 where strict mode would refuse the data."""
    cfg = load_config(config, overrides)
    cfg = cfg.model_copy(update={"run_dir": str(resolve_run_dir(cfg.run_dir))})
    prompter = Prompter(cfg.model, cfg.prompt)
    prompter.check_model()
    intake = survey(cfg, prompter)
    print(describe_intake(intake))
    folder = Path(cfg.run_dir) / "data"
    write_account(intake, folder)
    status = _name_faults(cfg, folder) if intake.num_faults else _compare_with_run(intake, cfg)
    print("".join(f"{line}\n" for line in name_unbelievable(intake.problems, cfg)), end="")
    return status


def _name_faults(cfg: Config, folder: Path) -> int:
    print(f"quarantine: {folder / QUARANTINE}")
    what = "refuses to start" if cfg.data.strict else "would go on without them"
    print(f"data.strict={str(cfg.data.strict).lower()}: a run {what}")
    return 1


def _compare_with_run(intake: Intake, cfg: Config) -> int:
    """Say what changed since the run in `run_dir` began, if it did; 1 where it would be refused."""
    try:
        changes = check_contents(intake.contents, cfg, intake.contents_by_looks).changes
    except DataError as error:
        print(error)
        return 1
    print("".join(f"{change}: will be taken in\n" for change in changes), end="")
    return 0


def parse_args(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description="Look at the data of a config.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="what would be read: counts, first rows, token lengths, bad rows"
    )
    inspect.add_argument("config", metavar="CONFIG", help="a YAML file, such as configs/tiny.yaml")
    inspect.add_argument("overrides", metavar="key=value", nargs="*", help="override a key")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
