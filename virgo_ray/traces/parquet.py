"""Rows as Parquet files that `datasets.load_dataset` opens, with the pictures inside.

A picture is its bytes and its file's name; no directory of this machine is in the files. Rows are
streamed: memory holds one row group, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from virgo_ray.files import rename_durably

DATA = "data"
GROUP_ROWS = 100  # what the Hugging Face hub's viewer reads at a time
GROUP_BYTES = 64 << 20  # of pictures
SHARD_BYTES = 500 << 20

Row = dict[str, Any]


def write_parquet(rows: Iterable[Row], schema: pa.Schema, made: Path, is_file: bool) -> None:
    """One file, or a directory of `data/train-00000-of-00002.parquet` and so on.

    `images` are paths in `rows`.
    """
    if is_file:
        with pq.ParquetWriter(made, schema) as writer:
            for group in groups(rows):
                writer.write_table(pa.Table.from_pylist(group, schema))
        return
    (made / DATA).mkdir(parents=True)
    shards: list[Path] = []
    left = groups(rows)
    while (first := next(left, None)) is not None:
        shards.append(made / DATA / f"{len(shards):05}.parquet")
        with pq.ParquetWriter(shards[-1], schema) as writer:
            for group in chain([first], left):
                writer.write_table(pa.Table.from_pylist(group, schema))
                if shards[-1].stat().st_size > SHARD_BYTES:
                    break
    for i, shard in enumerate(shards):
        rename_durably(shard, made / DATA / f"train-{i:05}-of-{len(shards):05}.parquet")


def groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows with their pictures read, in groups of bounded size."""
    group: list[Row] = []
    size = 0
    for row in rows:
        images = [picture(path) for path in row["images"]]
        size += sum(len(image["bytes"]) for image in images)
        group.append({**row, "images": images})
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def picture(path: str) -> Row:
    """A picture in the form of the `Image` feature of `datasets`."""
    return {"bytes": Path(path).read_bytes(), "path": Path(path).name}
