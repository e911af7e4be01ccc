"""Readers by name: where rows come from. Each yields rows with the canonical field names.

| reader | what it reads |
|---|---|
| tiny | the bundled puzzles, generated: splits train, heldout, seed |
| easyvqa | the pictures and questions of the PyPI package `easy-vqa`: splits train, heldout |
| jsonl | one JSON object a line; image paths are relative to the file |
| dataset | a Hugging Face dataset written by `save_to_disk`, or a DatasetDict of splits |

Rows of a file that name a `split` are taken only from the split asked for. Readers judge nothing:
`problems.py` and `seed_thoughts.py` do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from virgo_ray.config import SourceConfig
from virgo_ray.data.rows import Row, describe
from virgo_ray.errors import DataError


def problem_rows(source: SourceConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    """Rows of problems; pictures that are not files yet are written to `cache_dir`."""
    return PROBLEM_READERS[source.reader](source, seed, cache_dir)


def seed_thought_rows(source: SourceConfig, seed: int) -> Iterator[Row]:
    """Rows of textual long thoughts."""
    reader = SEED_THOUGHT_READERS.get(source.reader)
    if reader is None:
        raise DataError(
            f"reader {source.reader!r} has no textual long thoughts; expected one of "
            f"{', '.join(SEED_THOUGHT_READERS)} in data.seed_thoughts.reader"
        )
    return reader(source, seed)


# -- bundled puzzles -------------------------------------------------------------------------------


def _tiny_problems(source: SourceConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    from virgo_ray.tiny.puzzles import problems_dataset

    split = _one_of(source, {"train": "train", "heldout": "heldout", "seed": "seed"})
    num = _needed_num(source)
    yield from _numbered(problems_dataset(split, num, seed, cache_dir / "tiny"))  # type: ignore[arg-type]


def _tiny_seed_thoughts(source: SourceConfig, seed: int) -> Iterator[Row]:
    from virgo_ray.tiny.puzzles import seed_thoughts_dataset

    yield from _numbered(seed_thoughts_dataset(_needed_num(source), seed, source.style))


def _needed_num(source: SourceConfig) -> int:
    if source.num is None:
        raise DataError(f"{describe(source)} is generated without end; set how many with `num`")
    return source.num


# -- easy-VQA --------------------------------------------------------------------------------------


def _easyvqa_problems(source: SourceConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    try:
        import easy_vqa
    except ModuleNotFoundError as error:
        raise DataError(
            "reader 'easyvqa' needs the package easy-vqa; install it with "
            "`pip install 'virgo_ray[easyvqa]'`"
        ) from error
    split = _one_of(source, {"train": "train", "heldout": "test", "test": "test"})
    questions, answers, image_ids = getattr(easy_vqa, f"get_{split}_questions")()
    paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    triples = zip(questions, answers, image_ids, strict=True)
    for number, (question, answer, image_id) in enumerate(triples, 1):
        slug = re.sub(r"\W+", "-", question).strip("-")
        fields = {
            "id": f"easyvqa-{split}-{image_id}-{slug}",
            "question": question,
            "images": [paths[image_id]],
            "answer": answer,
            "source": f"easyvqa/{easyvqa_kind(question)}",
            "answer_type": "yes_no" if answer in ("yes", "no") else "text",
        }
        yield Row(number, fields)


def easyvqa_kind(question: str) -> str:
    """What is asked for.

    >>> [easyvqa_kind(q) for q in ("what color is the shape?", "what is the red shape?")]
    ['color', 'shape']
    >>> [easyvqa_kind(q) for q in ("is there a circle?", "is there not a circle?")]
    ['presence', 'absence']
    """
    if not question.startswith("what"):
        return "absence" if re.search(r"\b(?:no|not)\b", question) else "presence"
    return "color" if "color" in question else "shape"


# -- files -----------------------------------------------------------------------------------------


def _jsonl_problems(source: SourceConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    return _jsonl_rows(source)


def _jsonl_seed_thoughts(source: SourceConfig, seed: int) -> Iterator[Row]:
    return _jsonl_rows(source)


def _jsonl_rows(source: SourceConfig) -> Iterator[Row]:
    path = _existing(source, "a .jsonl file")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = _json_row(line, number, path.parent)
                if row.fields.get("split") in (None, source.split):
                    yield row


def _json_row(line: str, number: int, folder: Path) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as error:
        return Row(number, {}, folder, f"not JSON: {error}")
    if not isinstance(fields, dict):
        return Row(number, {}, folder, f"{line[:60]!r} is not a JSON object")
    return Row(number, fields, folder)


def _dataset_problems(source: SourceConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    path = _existing(source, "a directory written by `save_to_disk`")
    for row in _numbered(_load_from_disk(source, path)):
        images = row.fields.get("images", row.fields.get("image"))
        files = [_as_file(image, cache_dir / "images") for image in _listed(images)]
        yield Row(row.number, {**row.fields, "images": files}, path)


def _dataset_seed_thoughts(source: SourceConfig, seed: int) -> Iterator[Row]:
    yield from _numbered(_load_from_disk(source, _existing(source, "a `save_to_disk` directory")))


def _load_from_disk(source: SourceConfig, path: Path) -> Any:
    from datasets import DatasetDict, Image, List, load_from_disk

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
    for name, feature in loaded.features.items():  # bytes or paths, never decoded pictures
        if isinstance(feature, Image):
            loaded = loaded.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            loaded = loaded.cast_column(name, List(Image(decode=False)))
    return loaded


def _as_file(image: Any, folder: Path) -> Any:
    """Pictures that come as bytes are written under a name made of their content."""
    if not isinstance(image, Mapping):
        return image
    content = image.get("bytes")
    if content is None:
        return image.get("path")
    path = folder / hashlib.sha256(content).hexdigest()[:24]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return str(path)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _existing(source: SourceConfig, expected: str) -> Path:
    path = Path(source.path or "").expanduser().resolve()
    if not source.path or not path.exists():
        raise DataError(
            f"reader {source.reader!r}: path={source.path!r} does not exist; expected {expected}"
        )
    return path


def _numbered(records: Any) -> Iterator[Row]:
    for number, fields in enumerate(records, 1):
        yield Row(number, fields)


def _one_of(source: SourceConfig, splits: Mapping[str, str]) -> str:
    if source.split not in splits:
        raise DataError(
            f"reader {source.reader!r} has no split {source.split!r}; "
            f"expected one of {', '.join(splits)}"
        )
    return splits[source.split]


PROBLEM_READERS: dict[str, Callable[[SourceConfig, int, Path], Iterator[Row]]] = {
    "tiny": _tiny_problems,
    "easyvqa": _easyvqa_problems,
    "jsonl": _jsonl_problems,
    "dataset": _dataset_problems,
}
SEED_THOUGHT_READERS: dict[str, Callable[[SourceConfig, int], Iterator[Row]]] = {
    "tiny": _tiny_seed_thoughts,
    "jsonl": _jsonl_seed_thoughts,
    "dataset": _dataset_seed_thoughts,
}
