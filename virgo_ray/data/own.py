"""Rows from a function of the user's, named in place of a reader by its import path.

It is called as `rows(source) -> iterable of mappings`, with the section of the config that names
it, and yields the fields of docs/data.md. Relative pictures are looked for beside `source.path`
where that is set, else from where the run starts. Nothing it yields is trusted more than a file's
rows: they are checked, renamed and counted in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.config.importing import blaming, import_function
from virgo_ray.data.rows import Row

KEY = "reader"


def find_reader(where: str) -> Callable[..., Iterable[Mapping[str, Any]]]:
    """The function that `where` names.

    Raises:
        ConfigError: it cannot be imported or called so.
    """
    return import_function(KEY, where, "rows(source) -> iterable of mappings", 1)


def own_rows(source: PartConfig) -> Iterator[Row]:
    """Rows of a source whose reader is the user's own, numbered from 1.

    Raises:
        ConfigError: the function cannot be called, or failed.
    """
    read = find_reader(source.reader)
    place = Path(source.path or "").expanduser().resolve()
    folder = place.parent if place.is_file() else place
    with blaming(KEY, source.reader):
        rows = iter(read(source))
    for number, fields in enumerate(_blamed(rows, source.reader), 1):
        if isinstance(fields, Mapping):
            yield Row(number, dict(fields), folder)
        else:
            said = f"{type(fields).__name__}, expected a mapping of fields"
            yield Row(number, {}, broken=f"{source.reader} yielded {said}")


def _blamed(rows: Iterator[Any], where: str) -> Iterator[Any]:
    """The rows; what the user's generator raises names it, what their reader raises does not."""
    end = object()
    while True:
        with blaming(KEY, where):
            row = next(rows, end)
        if row is end:
            return
        yield row
