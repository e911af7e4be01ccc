"""Stored rollouts as training data for other programs.

| format | what is written |
|---|---|
| jsonl | one JSON object a line: problem, text, sampled token ids, verdict; pictures as paths |
| hf | a Hugging Face dataset (`load_from_disk`) with the pictures inside |
| parquet | the same as Parquet files (`load_dataset`), with a dataset card |
| trl | Parquet files of prompt and completion, for TRL's SFTTrainer |
| dpo | Parquet files of prompt, chosen and rejected: right against wrong rollouts |
| llamafactory | sharegpt JSON with `<image>` marks, and `dataset_info.json` |

Prompts are made as the run made them (system message, instruction, options). Rows are streamed.
The output appears complete or not at all, and what is left out is counted by reason.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from virgo_ray.config import Config
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors, draft_of, move_aside
from virgo_ray.store.schema import to_problem
from virgo_ray.traces.card import CARD, Facts, dataset_card, public_sampling
from virgo_ray.traces.chat import CUT_OFF, Chat, Message, UnfitError, assistant
from virgo_ray.traces.parquet import write_parquet
from virgo_ray.traces.rows import SEED, Pair, Row
from virgo_ray.traces.tables import chat_features, raw_features, save_dataset

IMAGE_MARK = "<image>"
MEDIA_MARKS = (IMAGE_MARK, "<video>", "<audio>")
HAS_MARK = f"hold {', '.join(MEDIA_MARKS)}: LLaMA-Factory counts such marks as media"
# What an export may replace: files that some export wrote, and nothing else.
OWN_FILES = (
    "README.md", "data/train-*.parquet", "traces.json", "dataset_info.json", "state.json",
    "data-*.arrow",
)  # fmt: skip


@dataclass
class Export:
    """What to write, and what became of it. `left_out` and `notes` count rollouts by reason."""

    cfg: Config
    rows: Iterable[Row] = ()
    pairs: Iterable[Pair] = ()
    num_written: int = 0
    num_missing_images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    facts: Facts = field(default_factory=Facts)
    is_file: bool = False  # of the Parquet formats: one file, without a card


def write(export: Export, format: str, out: Path, overwrite: bool = False) -> None:
    """Write `export` to `out` in one of FORMATS.

    Raises:
        DataError: `out` exists and is not to be replaced, there is nothing to write, or a picture
            that must go inside is missing.
        ConfigError: the model's tokenizer and chat template, which the format needs, are not there.
    """
    if out.exists():
        refuse_overwriting(out, overwrite)
    export.is_file = out.suffix == ".parquet"
    with disk_errors(DataError, f"{str(out)!r} could not be written", "nothing is left of it"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(out) as made:
            FORMATS[format](export, made)
            if not export.num_written:
                raise DataError(
                    f"there is nothing to export: {describe_left_out(export) or 'no rollouts'}; "
                    "`stats` shows what is stored"
                )
            if format in WITH_CARD and not export.is_file:
                card = dataset_card(export.cfg, format, export.facts, export.left_out)
                (made / CARD).write_text(card, encoding="utf-8")
            before = move_aside(out, "replaced") if out.is_dir() else None
        if before is not None:
            shutil.rmtree(before)


def refuse_overwriting(out: Path, overwrite: bool) -> None:
    """
    Raises:
        DataError: `out` is not to be replaced, or holds what no export wrote.
    """
    if not overwrite:
        raise DataError(
            f"{str(out)!r} exists already; expected a new path: choose another with --out, or "
            "replace it with --overwrite"
        )
    if out.is_dir():
        names = (str(p.relative_to(out)) for p in sorted(out.rglob("*")) if not p.is_dir())
        for name in names:
            if not any(fnmatch(name, own) for own in OWN_FILES):
                raise DataError(
                    f"{str(out)!r} holds {name!r}, which no export wrote, and is not replaced; "
                    "choose another with --out"
                )


def describe_left_out(export: Export) -> str:
    """ "5 are not accepted (wrong), 2 hold ..."."""
    return ", ".join(f"{num} {reason}" for reason, num in sorted(export.left_out.items()))


# -- formats ---------------------------------------------------------------------------------------


def _jsonl(export: Export, made: Path) -> None:
    with made.open("w", encoding="utf-8") as file:
        for row in export.rows:
            export.num_missing_images += sum(not Path(path).is_file() for path in row["images"])
            _count(export, row)
            plain = {**row, "sampling": public_sampling(row["sampling"])}
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _hf(export: Export, made: Path) -> None:
    save_dataset(_raw_rows(export), raw_features(), made)


def _parquet(export: Export, made: Path) -> None:
    write_parquet(_raw_rows(export), raw_features().arrow_schema, made, export.is_file)


def _trl(export: Export, made: Path) -> None:
    def rows() -> Iterator[Row]:
        chat = Chat.of(export.cfg)
        for row in export.rows:
            try:
                prompt = chat.prompt(to_problem(row))
                completion = _reply(export, chat, prompt, row)
            except UnfitError as error:
                export.left_out[str(error)] += 1
                continue
            _count(export, row)
            yield {"prompt": prompt, "completion": completion, "images": _readable(row)}

    write_parquet(rows(), chat_features("prompt", "completion").arrow_schema, made, export.is_file)


def _dpo(export: Export, made: Path) -> None:
    def rows() -> Iterator[Row]:
        chat = Chat.of(export.cfg)
        for right, wrong in export.pairs:
            try:
                prompt = chat.prompt(to_problem(right))
                chosen, rejected = (_reply(export, chat, prompt, row) for row in (right, wrong))
            except UnfitError as error:
                export.left_out[str(error)] += 2
                continue
            _count(export, right)
            yield {
                "prompt": prompt, "chosen": chosen, "rejected": rejected,
                "images": _readable(right),
            }  # fmt: skip

    write_parquet(
        rows(), chat_features("prompt", "chosen", "rejected").arrow_schema, made, export.is_file
    )


def _llamafactory(export: Export, made: Path) -> None:
    made.mkdir()
    with (made / "traces.json").open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in _with_marks(export):
            file.write(separator + json.dumps(row, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n")
    (made / "dataset_info.json").write_text(json.dumps(DATASET_INFO, indent=1) + "\n")


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "jsonl": _jsonl,
    "hf": _hf,
    "parquet": _parquet,
    "trl": _trl,
    "dpo": _dpo,
    "llamafactory": _llamafactory,
}
WITH_CARD = ("parquet", "trl", "dpo")

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


# -- rows ------------------------------------------------------------------------------------------


def _raw_rows(export: Export) -> Iterator[Row]:
    for row in export.rows:
        _count(export, row)
        sampling = json.dumps(public_sampling(row["sampling"]), sort_keys=True)
        yield {**row, "images": _readable(row), "sampling": sampling}


def _reply(export: Export, chat: Chat, prompt: list[Message], row: Row) -> list[Message]:
    """
    Raises:
        UnfitError: another program would train on something else than was stored.
    """
    text, token_ids = _response(chat, row)
    content, notes = chat.reply(prompt, text, token_ids)
    export.notes.update(notes)
    return assistant(content)


def _response(chat: Chat, row: Row) -> tuple[str, list[int] | None]:
    """What goes on after the prompt, and the ids that were sampled (None of a seed thought)."""
    if row["finish_reason"] != "stop":
        raise UnfitError(CUT_OFF)
    is_sampled = row["status"] != SEED
    return chat.response(row["text"], is_sampled), row["token_ids"] if is_sampled else None


def _with_marks(export: Export) -> Iterator[Row]:
    """Messages as plain text with an `<image>` per picture, pictures as paths."""
    chat = Chat.of(export.cfg)
    for row in export.rows:
        try:
            prompt = chat.prompt(to_problem(row))
            text, token_ids = _response(chat, row)
            notes = chat.check(text, token_ids)
            turns = [
                {"role": m["role"], "content": "".join(map(_mark, m["content"]))}
                for m in [*prompt, *assistant(chat.opening + text)]
            ]
        except UnfitError as error:
            export.left_out[str(error)] += 1
            continue
        export.notes.update(notes)
        _count(export, row)
        images = [str(Path(path).absolute()) for path in _readable(row)]
        yield {"messages": turns, "images": images}


def _mark(part: dict[str, Any]) -> str:
    if part["type"] == "image":
        return IMAGE_MARK
    if any(mark in part["text"] for mark in MEDIA_MARKS):
        raise UnfitError(HAS_MARK)
    return part["text"]


def _count(export: Export, row: Row) -> None:
    export.num_written += 1
    export.facts.add(row)


def _readable(row: Row) -> list[str]:
    lost = [path for path in row["images"] if not Path(path).is_file()]
    if lost:
        raise DataError(
            f"picture {lost[0]!r} of problem {row['problem_id']!r} is no file any more, and this "
            "format needs the pictures themselves; bring it back, or export jsonl"
        )
    return list(row["images"])
