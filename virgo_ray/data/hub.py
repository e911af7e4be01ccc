"""Records of the package `datasets`: what it saved on disk, or a data set of the Hugging Face hub.

Code that comes with a data set is never run, and pictures stay undecoded. Knows nothing of what the
fields mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.data.rows import Row, describe, require_path
from virgo_ray.errors import DataError


def dataset_rows(source: PartConfig) -> Iterator[Row]:
    """What `save_to_disk` wrote: a Dataset, or a DatasetDict of splits."""
    from datasets import DatasetDict, load_from_disk

    path = require_path(source, "a directory written by `save_to_disk`")
    try:
        loaded = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(
            f"{path} is no dataset that `save_to_disk` wrote: {error}; check data...path"
        ) from error
    if isinstance(loaded, DatasetDict):
        if source.split not in loaded:
            raise DataError(f"{path} has splits {sorted(loaded)}, not {source.split!r}")
        loaded = loaded[source.split]
    yield from _undecoded_rows(loaded, path, source.split)


def hub_rows(source: PartConfig) -> Iterator[Row]:
    """A data set of the Hugging Face hub, or a directory in its layout; code is never run.

    With `max_rows` it is streamed, so that only what is read is fetched.
    """
    if not source.path:
        raise DataError("reader 'hub': path=None; expected owner/name of a data set")
    path = Path(source.path).expanduser()
    folder = path if path.is_dir() else Path()
    number = 0
    for subset in _subsets(source, str(path)):
        loaded = _load_hub(source, str(path), subset)
        for row in _undecoded_rows(loaded, folder, source.split):
            number += 1
            fields = {"subset": subset, **row.fields} if subset else row.fields
            yield Row(number, fields, row.folder)


def _subsets(source: PartConfig, path: str) -> Sequence[str | None]:
    from datasets import get_dataset_config_names

    if source.subset == "*":
        return _fetch(source, lambda: get_dataset_config_names(path, revision=source.revision))
    return source.subset if isinstance(source.subset, tuple) else (source.subset,)


def _load_hub(source: PartConfig, path: str, subset: str | None) -> Any:
    from datasets import load_dataset

    return _fetch(
        source,
        lambda: load_dataset(
            path,
            subset,
            split=source.split,
            revision=source.revision,
            streaming=source.max_rows is not None,
        ),
    )


def _fetch(source: PartConfig, load: Callable[[], Any]) -> Any:
    """Load, and turn errors of hub and network, names and splits into one with advice."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return load()
    except (
        DatasetsError, HfHubHTTPError, HFValidationError, FileNotFoundError, ConnectionError,
        ValueError, RuntimeError, OSError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{describe(source)} split {source.split!r} subset {source.subset!r} could not be read "
            f"({type(error).__name__}: {error}); check name, split, subset and network, log in for "
            "gated sets, or give a local directory"
        ) from error


def _undecoded_rows(loaded: Any, folder: Path, split: str) -> Iterator[Row]:
    """Rows of one split, in which pictures are bytes or paths, never decoded."""
    from datasets import Image, List

    for name, feature in (loaded.features or {}).items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, Image):
            loaded = loaded.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(inner, Image):
            loaded = loaded.cast_column(name, List(Image(decode=False)))
    for number, fields in enumerate(loaded, 1):
        yield Row(number, {**fields, "split": split}, folder)
