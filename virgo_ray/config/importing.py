"""Functions of the user's by import path, `package.module:function`.

Guarantees that a path which cannot be imported or called as asked is a ConfigError that names its
key, and so is whatever the function raises later. Importing runs the module: it is code with the
rights of the run, to be taken from nobody who is not trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from virgo_ray.errors import ConfigError

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Whether a name is that of a function of the user's.

    >>> is_import_path("my_data.charts:rows"), is_import_path("jsonl")
    (True, False)
    """
    return IMPORT_PATH.fullmatch(name) is not None


def import_function(
    key: str, where: str, call: str, num_arguments: int = 0, names: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """The function that `where` names, which can be called with so many arguments, and with these
    by name. `call` says how, for the message: `choose(candidates, rng) -> candidates`.

    Raises:
        ConfigError: it cannot be imported, or cannot be called so.
    """
    function = _load(key, where)
    try:
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}")
        with contextlib.suppress(ValueError):  # a function of C that does not say what it takes
            _signature(key, where).bind(*[""] * num_arguments, **dict.fromkeys(names, ""))
    except TypeError as error:
        raise ConfigError(f"{key}={where!r} cannot be called ({error}); expected {call}") from error
    return function


@lru_cache(maxsize=64)
def _load(key: str, where: str) -> Callable[..., Any]:
    """What `where` names, and a note of the source it was loaded from."""
    if not is_import_path(where):
        raise ConfigError(f"{key}={where!r} is not of the form `package.module:function`")
    module, _, name = where.partition(":")
    if module == "__main__":
        raise ConfigError(
            f"{key}={where!r} is in a notebook or script, which the run's other processes cannot "
            "import; move it to a file of its own, and name it as `file:function`"
        )
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise ConfigError(
            f"{key}={where!r} cannot be imported ({type(error).__name__}: {error}); "
            "expected a function that Python finds from the directory where the run starts"
        ) from error
    if path := _source_file(function):
        _LOADED.setdefault(path, _hash_file(path))
    return function


@lru_cache(maxsize=64)
def _signature(key: str, where: str) -> inspect.Signature:
    return inspect.signature(_load(key, where))


@contextlib.contextmanager
def blaming(key: str, where: str) -> Iterator[None]:
    """Name the key of a function of the user's, and the line, in what it raises.

    Raises:
        ConfigError: the block raised anything.
    """
    try:
        yield
    except Exception as error:  # a foreign function raises what it likes
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{key}={where!r} failed with {type(error).__name__}: {error} "
            f"(line {last.lineno} of {last.filename}); mend it and start again: what was committed "
            "is kept"
        ) from error


def hash_source(function: Callable[..., Any]) -> str:
    """A hash of the file that a function was loaded from; empty where it has none."""
    path = _source_file(function)
    return _LOADED.get(path) or _hash_file(path) if path else ""


def source_hash(key: str, where: str) -> str:
    """As `hash_source`, of the function that `where` names.

    Raises:
        ConfigError: it cannot be imported, or its file was edited since this process did so.
    """
    function = _load(key, where)
    path = _source_file(function)
    if path and _hash_file(path) != hash_source(function):
        raise ConfigError(
            f"{key}={where!r}: {path} was edited after this process had imported it, expected the "
            "code that was loaded; restart the notebook's kernel (or the process) and start again"
        )
    return hash_source(function)


_LOADED: dict[str, str] = {}  # hashes of files, as they were when a function was loaded from them


def _source_file(function: Any) -> str:
    """The file that defines a function, what a partial calls, or the class of an instance."""
    while isinstance(function, partial):
        function = function.func
    is_code = inspect.isroutine(function) or inspect.isclass(function)
    code = inspect.unwrap(function) if is_code else type(function)
    try:
        return inspect.getsourcefile(code) or ""
    except (TypeError, OSError):  # of C, or of no file
        return ""


def _hash_file(path: str) -> str:
    """Empty where the file is gone."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""
