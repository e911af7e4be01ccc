"""Columns of exports in the terms of the package `datasets`, and its own form on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from virgo_ray.errors import DataError
from virgo_ray.traces.rows import COLUMNS, Row


def raw_features() -> Any:
    from datasets import Features, Image, Sequence, Value

    numbers = ("round", "sample_index", "weights_version", "num_tokens")
    features = {name: Value("int32" if name in numbers else "string") for name in COLUMNS}
    return Features(
        features
        | {
            "images": Sequence(Image()),
            "options": Sequence(Value("string")),
            "token_ids": Sequence(Value("int32")),
        }
    )


def chat_features(*columns: str) -> Any:
    from datasets import Features, Image, Sequence, Value

    part = {"type": Value("string"), "text": Value("string")}
    messages = [{"role": Value("string"), "content": [part]}]
    return Features({**dict.fromkeys(columns, messages), "images": Sequence(Image())})


def save_dataset(rows: Iterator[Row], features: Any, made: Path) -> None:
    """Through files, so that any number of rows fits."""
    import datasets

    datasets.disable_progress_bars()
    failed: list[DataError] = []

    def checked() -> Iterator[Row]:
        try:
            yield from rows
        except DataError as error:  # the library would wrap it
            failed.append(error)
            raise

    with TemporaryDirectory(".cache", ".", made.parent, ignore_cleanup_errors=True) as cache:
        fingerprint = Path(cache).name.strip(".")
        try:
            found = datasets.Dataset.from_generator(
                checked, features=features, cache_dir=cache, fingerprint=fingerprint
            )
        except Exception:
            if failed:
                raise failed[0] from None
            raise
        found.save_to_disk(str(made))
