"""Where our own log lines go, in the driver and in every actor. Nobody else sets handlers.

Each process writes what it logs to `logs/NAME.log` of the run directory, from INFO on, and the
driver also shows warnings. Other packages keep their own settings.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

PACKAGE = "virgo_ray"
OURS = "virgo_ray-handler"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
DRIVER = "driver"


def log_path(run_dir: str, name: str) -> Path:
    """Where the process of this name logs: `logs/driver.log`, `logs/trainer-rank-0.log`, ..."""
    return Path(run_dir) / "logs" / f"{name}.log"


def configure_logging(file: Path | None, shows_warnings: bool = False) -> None:
    """Send the package's lines to the end of `file` (None: to stderr), in place of where an earlier
    call sent them. With `shows_warnings` their messages alone go to stderr too.

    Raises:
        OSError: the directory of `file` cannot be made.
    """
    logger = logging.getLogger(PACKAGE)
    for handler in [h for h in logger.handlers if h.get_name() == OURS]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    if file is None:
        _add(logger, logging.StreamHandler(sys.stderr), logging.INFO, FORMAT)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        _add(logger, logging.FileHandler(file, delay=True), logging.INFO, FORMAT)
    if shows_warnings:
        _add(logger, logging.StreamHandler(sys.stderr), logging.WARNING, "%(message)s")


def _add(logger: logging.Logger, handler: logging.Handler, level: int, form: str) -> None:
    handler.set_name(OURS)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(form))
    logger.addHandler(handler)
