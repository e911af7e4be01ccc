"""What every `python -m virgo_ray...` command shares: its exit codes, and a help with config keys.

0 well; 2 the request is wrong (config, arguments, data); 1 anything else that we raise on purpose;
130 interrupted. Other exceptions are bugs and keep their stack trace.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from virgo_ray.config import describe_section
from virgo_ray.errors import ConfigError, DataError, VirgoError
from virgo_ray.files import REFUSED, refusal
from virgo_ray.interrupts import INTERRUPTED, EndsOnSignals

UNNAMED = "standard output or a temporary file"


def exit_code(work: Callable[[], int | None], when_interrupted: str = "interrupted") -> int:
    """Do the work of a command; what goes wrong on purpose is one message on stderr.

    `work` may return a code of its own; None is 0. SIGTERM (what `ray job stop` and Kubernetes
    send) and Ctrl-C end the process within seconds, wherever it is.
    """
    # A library's own log that finds no room on a disk is no news with a traceback.
    logging.raiseExceptions = False
    try:
        with EndsOnSignals(when_interrupted):
            return work() or 0
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except VirgoError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(when_interrupted, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # of a writer without words of its own, such as standard output
        if error.errno not in REFUSED:
            raise
        print(
            f"error: DiskError: {refusal(error, Path(error.filename or UNNAMED))}", file=sys.stderr
        )
        return 1


class KeysHelp(argparse.Action):
    """`--help` prints the parser's help; `--help SECTION` prints the config keys of one section."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        text = "show this, or all config keys of one section, such as --help train"
        super().__init__(option_strings, dest, nargs="?", metavar="SECTION", help=text)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, section: Any, option: Any = None
    ) -> None:
        try:
            print(parser.format_help() if section is None else describe_section(section), end="")
        except ConfigError as error:
            parser.error(str(error))
        parser.exit()
