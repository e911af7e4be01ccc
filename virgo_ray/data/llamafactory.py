"""Data sets as LLaMA-Factory's `dataset_info.json` describes them: its columns, tags and media.

`path` is its data directory or the file itself, `subset` the name of a data set in it. Each record
becomes a chat of the usual form (`chat.py`), so golds, turns and pictures mean what they do there.
Relative pictures start from the data directory, or from `image_dir` (LLaMA-Factory's `media_dir`).

The meaning of the keys is that of LLaMA-Factory's own reader (src/llamafactory/data/parser.py):
with `columns` only the columns that stand there are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.data.files import file_rows
from virgo_ray.data.rows import Row, require_path
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors

INFO = "dataset_info.json"
Entry = Mapping[str, Any]
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
MESSAGES = "conversations"
MEDIA = ("images", "videos", "audios")
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "system_tag": "system",
}  # fmt: skip
ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
NAMED = {  # parts of an entry that say how the data set calls what is read, with an example each
    "columns": '{"prompt": "instruction", "response": "output"}',
    "tags": '{"role_tag": "from", "content_tag": "value"}',
}
ELSEWHERE = {
    "hf_hub_url": "`{{reader: chat, path: {value}}}` reads it from the Hugging Face hub",
    "ms_hub_url": "download it from ModelScope and give the entry a `file_name`",
    "om_hub_url": "download it from Modelers and give the entry a `file_name`",
    "script_url": "code that comes with data is never run: write what it makes to a .jsonl file "
    "and give the entry a `file_name`",
    "cloud_file_name": "download the file and give the entry a `file_name`",
}


def llamafactory_rows(source: PartConfig) -> Iterator[Row]:
    """The records of one data set as chats.

    Raises:
        DataError: no such data set; one that is no file here, or whose replies are no answers.
    """
    folder, name, entry = _find_entry(source)
    place = folder / str(entry["file_name"])
    found = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
    number = 0
    for file in found:
        for row in file_rows(source.model_copy(update={"path": str(file)})):
            number += 1
            yield replace(_as_chat(row, entry, name), number=number, folder=folder)


def _find_entry(source: PartConfig) -> tuple[Path, str, Entry]:
    path = require_path(source, f"a directory with {INFO}, or that file")
    path = path / INFO if path.is_dir() else path
    way_out = f"give the directory that holds {INFO}, or that file"
    try:
        with disk_errors(DataError, f"{path} cannot be read", way_out=way_out):
            entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise DataError(f"{path} is no {INFO}: expected an object of data sets by name")
    name = source.subset if isinstance(source.subset, str) else ""
    if name not in entries:
        near = get_close_matches(name, entries, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"{path} describes no data set {source.subset!r}; {hint}expected one of "
            f"{', '.join(entries)} in `subset` (several: one part of a mix each)"
        )
    _refuse_unread(entries[name], f"{path}: {name!r}")
    return path.parent, name, entries[name]


def _refuse_unread(entry: Entry, where: str) -> None:
    _refuse_malformed(entry, where)
    remote = next((key for key in ELSEWHERE if entry.get(key)), None)
    if remote:
        advice = ELSEWHERE[remote].format(value=entry[remote])
        raise DataError(f"{where} has {remote}={entry[remote]!r}, which is no file here; {advice}")
    if not entry.get("file_name"):
        raise DataError(f"{where} has no `file_name`; expected the name of a file beside it")
    if entry.get("formatting", "alpaca") not in ("alpaca", "sharegpt", "openai"):
        raise DataError(
            f"{where} has formatting={entry['formatting']!r}; expected alpaca or sharegpt"
        )
    if entry.get("ranking") or _columns(entry).get("kto_tag"):
        raise DataError(
            f"{where} is of preferences: its replies are compared, not right; choose a data set "
            "for supervised fine-tuning"
        )


def _refuse_malformed(entry: Entry, where: str) -> None:
    for part, example in NAMED.items():
        given = entry.get(part) or {}
        if not isinstance(given, dict):
            raise DataError(f"{where} has {part}={given!r:.80}; expected an object like {example}")
        for key, name in given.items():
            if name is not None and not isinstance(name, str):
                raise DataError(
                    f"{where} has {part}.{key}={name!r:.80}; expected one name as a text, in an "
                    f"object like {example}"
                )
    if not isinstance(entry.get("file_name", ""), str | None):
        raise DataError(
            f"{where} has file_name={entry['file_name']!r:.80}; expected the name of one file or "
            "directory beside it"
        )


def _columns(entry: Entry) -> Mapping[str, Any]:
    return entry.get("columns") or {}


def _as_chat(row: Row, entry: Entry, name: str) -> Row:
    if row.broken:
        return row
    columns, is_alpaca = _columns(entry), entry.get("formatting", "alpaca") == "alpaca"
    made = _alpaca(row, entry) if is_alpaca else _messages(row, entry)
    if isinstance(made, str):
        return Row(row.number, {}, row.folder, made)
    media = {kind: row.fields.get(columns[kind]) for kind in MEDIA if columns.get(kind)}
    used = {*columns.values(), *COLUMNS.values(), MESSAGES, "messages", *MEDIA}
    rest = {key: value for key, value in row.fields.items() if key not in used}
    unread = {k: row.fields[k] for k in MEDIA if k not in media and row.fields.get(k)}
    return Row(row.number, {"source": name, **rest, **unread, **media, **made}, row.folder)


def _alpaca(row: Row, entry: Entry) -> dict[str, Any] | str:
    """As `chat.py` reads it; a text where a column is not there."""
    columns = _columns(entry)
    names = {k: columns.get(k, None if columns else default) for k, default in COLUMNS.items()}
    names |= {k: names[k] or COLUMNS[k] for k in ("prompt", "response")}
    absent = [n for n in (names["prompt"], names["response"]) if n not in row.fields]
    if absent:
        return f"has no column {absent[0]!r}, which {INFO} names; it has {', '.join(row.fields)}"
    history = row.fields.get(columns["history"]) if columns.get("history") else None
    return {
        "instruction": row.fields[names["prompt"]],
        "input": row.fields.get(names["query"]) if names["query"] else None,
        "output": row.fields[names["response"]],
        "history": history,
    }


def _messages(row: Row, entry: Entry) -> dict[str, Any] | str:
    """Messages with roles and contents under the usual names; a text where that cannot be."""
    column = _columns(entry).get("messages") or MESSAGES
    tags = {**TAGS, **{k: v for k, v in (entry.get("tags") or {}).items() if v}}
    roles = {tags[tag]: role for tag, role in ROLES.items()}
    given = row.fields.get(column)
    if not isinstance(given, list) or not all(isinstance(m, dict) for m in given):
        return f"{column}={given!r:.60} is no list of messages; it has {', '.join(row.fields)}"
    unknown = [m for m in given if not {tags["role_tag"], tags["content_tag"]} <= m.keys()]
    if unknown:
        wanted = (
            f"{tags['role_tag']!r} and {tags['content_tag']!r}, which the `tags` of {INFO} name"
        )
        return f"a message {unknown[0]!r:.80} has not {wanted}"
    return {
        "messages": [
            {"role": _role(m[tags["role_tag"]], roles), "content": m[tags["content_tag"]]}
            for m in given
        ]
    }


def _role(given: Any, roles: Mapping[str, str]) -> Any:
    """The usual name of a role; what is none stays as it is, for `chat.py` to refuse by row."""
    return roles.get(given, given) if isinstance(given, str) else given
