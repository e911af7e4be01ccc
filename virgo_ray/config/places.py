"""Where things lie: paths as a config gives them, and which keys hold some, for that changes no
result."""

from __future__ import annotations

import os
import re
from pathlib import Path

from virgo_ray.errors import ConfigError

# Where data lie says nothing of what they are: that is compared record by record.
_DATA_PLACE = re.compile(
    r"(?:data\.(?:train|heldout|seed_thoughts)|evaluate\.(?:perception|text))(?:\.parts\.[0-9]+)?"
    r"\.(?:path|image_dir|revision)"
)


def is_data_place(key: str) -> bool:
    """Whether a dotted key says where a source of data lies.

    >>> is_data_place("data.train.parts.1.path"), is_data_place("data.train.parts.1.num")
    (True, False)
    """
    return bool(_DATA_PLACE.fullmatch(key))


def is_in_ray_job() -> bool:
    """Whether this process is the driver of a Ray job, whose working directory is a throw-away
    copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve_place(text: str, key: str) -> Path:
    """Absolute path of what a run writes.

    A relative one is taken from VIRGO_RAY_HOME if that is set. Inside a Ray job the working
    directory is a throw-away copy, so there it is taken from `~/virgo_ray`; elsewhere from the
    working directory. On a cluster it must be on a file system that every node sees.

    Raises:
        ConfigError: it begins with `~name` and there is no such user, or names a variable of the
            environment that is not set. The error names `key`.
    """
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise ConfigError(
            f"{key}={text!r} names a variable that is not set; set it, or write the path"
        )
    try:
        path = Path(expanded).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{key}={text!r}: there is no such home directory; give another path"
        ) from error
    if path.is_absolute():
        return path
    home = os.environ.get("VIRGO_RAY_HOME")
    if home:
        return (Path(home) / path).resolve()
    if is_in_ray_job():
        return (Path.home() / "virgo_ray" / path).resolve()
    return path.resolve()
