"""Stored rollouts as training data for other programs.

| format | what is written |
|---|---|
| jsonl | one JSON object a line: problem, text, sampled token ids, verdict; pictures as paths |
| hf | a Hugging Face dataset (`load_from_disk`) with the pictures inside |
| llamafactory | sharegpt JSON with `<image>` marks, and `dataset_info.json` |
| trl | a Hugging Face dataset of chat messages with image parts, for TRL's SFTTrainer |

Prompts are made as the run made them (system message, instruction, options). Rows are streamed.
Nothing is overwritten, and the output appears complete or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from virgo_ray.config import Config
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors, draft_of
from virgo_ray.model.prompts import user_content
from virgo_ray.records import Status
from virgo_ray.store.reader import KEY, Key, TraceReader
from virgo_ray.store.schema import to_problem

COLUMNS = (
    *KEY, "status", "source", "question", "context", "images", "image_hash", "options", "gold",
    "gold_type", "answer", "verifier_version", "weights_version", "finish_reason", "num_tokens",
    "sampling", "text", "token_ids",
)  # fmt: skip
IMAGE_MARK = "<image>"

Row = dict[str, Any]


@dataclass
class Export:
    """What to write, and what became of it."""

    cfg: Config
    rows: Iterable[Row]
    num_written: int = 0
    num_refused: int = 0  # a text that holds an image mark, in a format that counts marks
    num_missing_images: int = 0


def select_rows(
    reader: TraceReader,
    rounds: Iterable[int] | None = None,
    accepted_only: bool = True,
    keys: frozenset[Key] | None = None,
) -> Iterator[Row]:
    """Stored rows of these rounds; with `keys` only those."""
    for batch in reader.scan(COLUMNS, rounds, Status.CORRECT if accepted_only else None):
        for row in batch.to_pylist():
            if keys is None or tuple(row[name] for name in KEY) in keys:
                yield row


def write(export: Export, format: str, out: Path) -> None:
    """Write `export.rows` to `out` in one of FORMATS.

    Raises:
        DataError: `out` exists, nothing to write, or a picture that must go inside is missing.
    """
    if out.exists():
        raise DataError(f"{str(out)!r} exists already; expected a new path, nothing is overwritten")
    with disk_errors(DataError, f"{str(out)!r} could not be written", "nothing is left of it"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(out) as made:
            FORMATS[format](export, made)
            if not export.num_written:
                raise DataError("there is nothing to export; `stats` shows what is stored")


# -- formats ---------------------------------------------------------------------------------------


def _jsonl(export: Export, made: Path) -> None:
    with made.open("w", encoding="utf-8") as file:
        for row in _count(export, export.rows):
            file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")


def _hf(export: Export, made: Path) -> None:
    from datasets import Features, Image, Sequence, Value

    numbers = ("round", "sample_index", "weights_version", "num_tokens")
    features = {name: Value("int32" if name in numbers else "string") for name in COLUMNS}
    features |= {
        "images": Sequence(Image()),
        "options": Sequence(Value("string")),
        "token_ids": Sequence(Value("int32")),
    }
    rows = ({**row, "images": _readable(row)} for row in export.rows)
    _save_dataset(_count(export, rows), Features(features), made)


def _trl(export: Export, made: Path) -> None:
    from datasets import Features, Image, Sequence, Value

    part = {"type": Value("string"), "text": Value("string")}
    messages = [{"role": Value("string"), "content": [part]}]
    rows = (
        {"messages": to_messages(row, export.cfg), "images": _readable(row)} for row in export.rows
    )
    features = Features({"messages": messages, "images": Sequence(Image())})
    _save_dataset(_count(export, rows), features, made)


def _llamafactory(export: Export, made: Path) -> None:
    made.mkdir()
    with (made / "traces.json").open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in _count(export, _with_marks(export)):
            file.write(separator + json.dumps(row, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n")
    (made / "dataset_info.json").write_text(json.dumps(DATASET_INFO, indent=1) + "\n")


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "jsonl": _jsonl,
    "hf": _hf,
    "llamafactory": _llamafactory,
    "trl": _trl,
}

DATASET_INFO = {
    "virgo_traces": {
        "file_name": "traces.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}


def to_messages(row: Row, cfg: Config) -> list[dict[str, Any]]:
    """The chat as it was sampled: system, user with one image part per picture, assistant."""
    system = [{"type": "text", "text": cfg.prompt.system}] if cfg.prompt.system else []
    user = [{"text": None, **part} for part in user_content(to_problem(row), cfg.prompt)]
    turns = (
        ("system", system),
        ("user", user),
        ("assistant", [{"type": "text", "text": row["text"]}]),
    )
    return [{"role": role, "content": content} for role, content in turns if content]


def _with_marks(export: Export) -> Iterator[Row]:
    """Messages as plain text with an `<image>` per picture, pictures as paths.

    LLaMA-Factory counts marks in all messages: a row whose own text holds one is left out.
    """
    for row in export.rows:
        images = _paths(export, row)
        turns = [
            {"role": m["role"], "content": "".join(_mark(part) for part in m["content"])}
            for m in to_messages(row, export.cfg)
        ]
        if sum(turn["content"].count(IMAGE_MARK) for turn in turns) != len(images):
            export.num_refused += 1
            continue
        yield {"messages": turns, "images": images}


def _mark(part: dict[str, Any]) -> str:
    return IMAGE_MARK if part["type"] == "image" else part["text"]


# -- helpers ---------------------------------------------------------------------------------------


def _count(export: Export, rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        export.num_written += 1
        yield row


def _plain(row: Row) -> Row:
    return {**row, "sampling": json.loads(row["sampling"])}


def _paths(export: Export, row: Row) -> list[str]:
    paths = [str(Path(path).absolute()) for path in row["images"]]
    export.num_missing_images += sum(not Path(path).is_file() for path in paths)
    return paths


def _readable(row: Row) -> list[str]:
    lost = [path for path in row["images"] if not Path(path).is_file()]
    if lost:
        raise DataError(
            f"picture {lost[0]!r} of problem {row['problem_id']!r} is no file any more, and this "
            "format holds the pictures themselves; bring it back, or export jsonl"
        )
    return list(row["images"])


def _save_dataset(rows: Iterator[Row], features: Any, made: Path) -> None:
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
