"""Records of files as they stand: JSONL, JSON, Parquet, TSV; of directories by what they hold.

Every reader streams numbered rows and holds one batch at a time; a JSON file and a
`data.json` tree are read as a whole. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.config.importing import is_import_path
from virgo_ray.data.hub import dataset_rows, hub_rows
from virgo_ray.data.rows import Row, require_path
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors

BATCH = 64
CELL_LIMIT = 1 << 30  # a base64 picture is one cell
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PICKLES = (".pk", ".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz")
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv", ".csv")


def names_hub(source: PartConfig) -> bool:
    """Whether the path of a source, where nothing lies there, is an id of the Hugging Face hub."""
    path = source.path or ""
    is_own = is_import_path(source.reader)
    return bool(HUB_ID.fullmatch(path)) and Path(path).suffix not in DATA_SUFFIXES and not is_own


def file_rows(source: PartConfig) -> Iterator[Row]:
    """Rows of `source.path`, by what it is: a file by its suffix, a directory by what it holds, or,
    where no such path exists, a Hugging Face id.

    Raises:
        DataError: there is nothing there, or nothing that is read (a pickle, for example).
    """
    path = Path(source.path or "").expanduser().resolve()
    is_hub_id = names_hub(source)
    if is_hub_id and not path.exists():
        return hub_rows(source)
    if path.is_file() and path.suffix in PICKLES:
        raise DataError(
            f"{path} is a pickle: opening it would run code of whoever wrote it, so it is not "
            "read. Convert it where nothing can be harmed (a container without network): write one "
            "JSON object a line with the same fields, every picture array as a PNG beside it and "
            "its path in `image`; docs/data.md has a script"
        )
    if path.is_dir():
        return _directory_rows(source, path)
    by_suffix = {
        ".jsonl": jsonl_rows, ".json": json_rows, ".parquet": parquet_rows, ".tsv": tsv_rows,
        ".csv": csv_rows,
    }  # fmt: skip
    if source.path and path.is_file() and path.suffix in by_suffix:
        return by_suffix[path.suffix](source)
    expected = f"a {', '.join(DATA_SUFFIXES)} file, a directory or owner/name of a data set"
    require_path(source, expected)
    raise DataError(f"{path} is of no known kind; expected {expected}")


def _directory_rows(source: PartConfig, path: Path) -> Iterator[Row]:
    if any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return dataset_rows(source)
    if any(path.glob("*/data.json")) or any(path.glob("*/*/data.json")):
        return tree_rows(source)
    return hub_rows(source)  # Parquet or other files in the layout of the hub


@contextmanager
def _explain_read_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file as a whole into a DataError that says what to do."""
    way_out = "check the path and its rights"
    try:
        with disk_errors(DataError, f"{path} cannot be read", way_out=way_out):
            yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 ({error}); convert it, such as with `iconv -f LATIN1 -t UTF-8`"
        ) from error


def jsonl_rows(source: PartConfig) -> Iterator[Row]:
    """One JSON object a line."""
    path = require_path(source, "a .jsonl file")
    with _explain_read_errors(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_row(line, number, path.parent)


def _json_row(line: bytes, number: int, folder: Path) -> Row:
    try:
        text = line.decode("utf-8-sig").strip()
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        return Row(number, {}, folder, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        hint = "; a file that is one JSON list has `reader: json`" if text[:1] in "[]" else ""
        return Row(number, {}, folder, f"not JSON: {error}{hint}")
    if not isinstance(fields, dict):
        return Row(number, {}, folder, f"{text[:60]!r} is not a JSON object")
    return Row(number, fields, folder)


def json_rows(source: PartConfig) -> Iterator[Row]:
    """A list of objects, an object of objects by id (`{"12": {...}}`), or one list inside an
    object (`{"info": ..., "questions": [...]}`)."""
    path = require_path(source, "a .json file")
    with _explain_read_errors(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}; is it JSONL? then name it .jsonl") from error
    for number, fields in enumerate(_records(loaded, path), 1):
        if isinstance(fields, dict):
            yield Row(number, fields, path.parent)
        else:
            yield Row(number, {}, path.parent, f"{str(fields)[:60]!r} is not a JSON object")


def _records(loaded: Any, path: Path) -> Sequence[Any]:
    if isinstance(loaded, list):
        return loaded
    if isinstance(loaded, dict):
        if loaded and all(isinstance(value, dict) for value in loaded.values()):
            return [{"id": key, **value} for key, value in loaded.items()]
        lists = [value for value in loaded.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
    raise DataError(
        f"{path} holds {type(loaded).__name__}; expected a list of objects, objects by id, or an "
        "object with one list of objects"
    )


def tree_rows(source: PartConfig) -> Iterator[Row]:
    """A directory a record, each with its `data.json`; pictures lie beside it."""
    path = require_path(source, "a directory of directories with data.json")
    found = sorted(path.rglob("data.json"), key=lambda p: [_natural(part) for part in p.parts])
    for number, file in enumerate(found, 1):
        row = _json_row(file.read_bytes(), number, file.parent)
        yield Row(number, {"id": file.parent.name, **row.fields}, file.parent, row.broken)


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (-1, text)


def parquet_rows(source: PartConfig) -> Iterator[Row]:
    """A Parquet file or a directory of them, a batch of rows at a time."""
    import pyarrow as pa

    path = require_path(source, "a .parquet file")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no .parquet file; expected one, or a directory of them")
    number = 0
    try:
        for file in files:
            for fields in _parquet_records(file):
                number += 1
                yield Row(number, fields, path if path.is_dir() else path.parent)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; fetch it again") from error


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()


def tsv_rows(source: PartConfig) -> Iterator[Row]:
    """Tab-separated cells with a header, quoted as pandas writes them; empty cells are None."""
    return _table_rows(require_path(source, "a .tsv file"), "\t")


def csv_rows(source: PartConfig) -> Iterator[Row]:
    """Comma-separated cells with a header; several options or pictures are a JSON list."""
    for row in _table_rows(require_path(source, "a .csv file"), ","):
        yield Row(row.number, dict(_unpacked(row.fields)), row.folder, row.broken)


def _unpacked(cells: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, cell in cells.items():
        if name in ("options", "images", "choices") and str(cell).startswith("["):
            try:
                yield name, json.loads(cell)
                continue
            except ValueError:
                pass
        yield name, cell


def _table_rows(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(CELL_LIMIT)
    with _explain_read_errors(path), open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for number, cells in enumerate(reader, 1):
            if None in cells or None in cells.values():
                yield Row(number, {}, path.parent, "has more or fewer cells than the header")
            else:
                yield Row(number, {k: v or None for k, v in cells.items()}, path.parent)
