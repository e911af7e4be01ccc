"""Readers by name: where rows come from, with canonical field names whatever a file calls them.

A reader yields rows; the config's `fields` map renames; a layout's adapter (`chat.py`,
`published.py`) makes canonical fields of each; pictures become files. `docs/data.md` has the table
of readers. Readers judge nothing: `problems.py` and `seed_thoughts.py` do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.config.importing import is_import_path
from virgo_ray.data import files, hub
from virgo_ray.data.annotators import first_answers, with_gold_answer
from virgo_ray.data.chat import chat_record
from virgo_ray.data.llamafactory import llamafactory_rows
from virgo_ray.data.media import picture_columns, refuse_recordings
from virgo_ray.data.own import own_rows
from virgo_ray.data.pictures import picture_path, wrap_in_list
from virgo_ray.data.published import ADAPTERS
from virgo_ray.data.rows import LeftOutError, Row, RowError, describe
from virgo_ray.data.vlmevalkit import vlmevalkit_rows
from virgo_ray.errors import DataError

Adapter = Callable[[Row], Iterator[Mapping[str, Any]]]
CONTAINERS: dict[str, Callable[[PartConfig], Iterator[Row]]] = {
    "jsonl": files.jsonl_rows,
    "json": files.json_rows,
    "csv": files.csv_rows,
    "parquet": files.parquet_rows,
    "dataset": hub.dataset_rows,
    "hub": hub.hub_rows,
    "vlmevalkit": vlmevalkit_rows,
    "llamafactory": llamafactory_rows,
}

UNREAD_PICTURES = "without a picture, though a column looks like one"
PROBLEM_FIELDS = (
    "id", "question", "answer", "answers", "images", "image", "options", "answer_type", "source",
    "split", "context", "difficulty",
)  # fmt: skip


def problem_rows(source: PartConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    """Rows of problems; pictures that are not files yet are written under `cache_dir`."""
    if source.reader == "tiny":
        return _tiny_problems(source, seed, cache_dir)
    if source.reader == "easyvqa":
        return _easyvqa_problems(source)
    _check_fields(source)
    store = cache_dir / "images"
    rows = (_store_pictures(row, source, store) for row in _file_rows(source))
    return first_answers(map(with_gold_answer, rows))


def _check_fields(source: PartConfig) -> None:
    """A misspelt name on the left of `fields` would leave that field empty unnoticed.

    Other readers map names of their own layouts, which are not listed anywhere.
    """
    unknown = [name for name in source.fields if name not in PROBLEM_FIELDS]
    if unknown and source.reader in ("jsonl", "json", "csv", "parquet", "dataset", "hub"):
        near = get_close_matches(unknown[0], PROBLEM_FIELDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {PROBLEM_FIELDS}"
        raise DataError(
            f"{describe(source)}: fields.{unknown[0]}={source.fields[unknown[0]]!r} names no field "
            f"of a problem; {hint} The left side is our name, the right side the file's"
        )


def seed_thought_rows(source: PartConfig, seed: int) -> Iterator[Row]:
    """Rows of textual long thoughts."""
    if source.reader == "tiny":
        return _tiny_seed_thoughts(source, seed)
    if source.reader not in ("chat", *CONTAINERS) and not is_import_path(source.reader):
        known = ", ".join(("tiny", "chat", *CONTAINERS))
        raise DataError(
            f"reader {source.reader!r} has no textual long thoughts; expected one of {known} in "
            "data.seed_thoughts.reader"
        )
    return _file_rows(source)


# -- from a file's record to canonical fields ------------------------------------------------------


def _file_rows(source: PartConfig) -> Iterator[Row]:
    is_own = is_import_path(source.reader)
    read = own_rows if is_own else CONTAINERS.get(source.reader, files.file_rows)
    raw = islice(read(source), source.max_rows)
    adapt = _adapter(source)
    for row in raw:
        if row.broken:
            yield row
            continue
        named = _rename_fields(row, source.fields)
        split = named.fields.get("split")
        if split not in (None, "", source.split):
            yield Row(row.number, {}, left_out=f"of split {split!r}, not {source.split!r}")
            continue
        yield from _adapt_row(named, adapt)


def _adapter(source: PartConfig) -> Adapter:
    if source.reader in ("chat", "llamafactory"):
        return partial(chat_record, turns=source.turns)
    return ADAPTERS.get(source.reader, lambda row: iter([row.fields]))


def _adapt_row(row: Row, adapt: Adapter) -> Iterator[Row]:
    try:
        for fields in adapt(row):
            yield Row(row.number, fields, fields.get("folder", row.folder))
    except LeftOutError as why:
        yield Row(row.number, {}, left_out=str(why))
    except RowError as error:
        yield Row(row.number, {}, broken=error.detail, kind=error.kind)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        detail = f"not as its layout is published ({type(error).__name__}: {error})"
        yield Row(row.number, {}, broken=f"{detail}; it has {', '.join(row.fields)[:200]}")


def _rename_fields(row: Row, names: Mapping[str, str]) -> Row:
    """Fields under their canonical names; "a.b" looks inside, an empty name takes a field away."""
    if not names:
        return row
    renamed = {canonical: _look_up(row.fields, name) for canonical, name in names.items()}
    moved = {name for name in names.values() if name not in names}
    rest = {key: value for key, value in row.fields.items() if key not in moved}
    return Row(row.number, {**rest, **renamed}, row.folder)


def _look_up(fields: Any, name: str) -> Any:
    """The value of "name", or of "outer.inner"; None where there is none."""
    if name in fields:
        return fields[name]
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, Mapping) else None
    return fields


def _store_pictures(row: Row, source: PartConfig, store: Path) -> Row:
    if row.broken or row.left_out:
        return row
    images = row.fields.get("images")
    if images is None:
        images = row.fields.get("image")
    folder = Path(source.image_dir).expanduser().resolve() if source.image_dir else row.folder
    try:
        refuse_recordings(row.fields)
        paths = [picture_path(image, folder, store) for image in wrap_in_list(images)]
    except RowError as error:
        return Row(row.number, {}, broken=error.detail, kind=error.kind)
    unread = [] if paths else picture_columns(row.fields)
    note = f"{UNREAD_PICTURES}: `fields: {{images: {unread[0]}}}` reads them" if unread else ""
    names = [_name_below(path, folder) for path in paths]
    fields = {**row.fields, "images": paths, **({"image_names": names} if names else {})}
    return Row(row.number, fields, row.folder, note=note or row.note)


def _name_below(path: str, folder: Path) -> str:
    """A picture's name for ids made of content: the same wherever the data lie.

    >>> _name_below("/data/v1/a.png", Path("/data/v1")), _name_below("/x/y/a.png", Path("/data"))
    ('a.png', 'y/a.png')
    """
    place = Path(path)
    parts = place.relative_to(folder).parts if place.is_relative_to(folder) else place.parts
    return "/".join(parts[-2:])


# -- bundled puzzles -------------------------------------------------------------------------------


def _tiny_problems(source: PartConfig, seed: int, cache_dir: Path) -> Iterator[Row]:
    from virgo_ray.tiny.datasets import problems_dataset, words_dataset
    from virgo_ray.tiny.scenes import scenes_dataset

    split: Any = _map_split(source, {"train": "train", "heldout": "heldout", "seed": "seed"})
    num, folder = _required_num(source), cache_dir / "tiny"
    if source.subset in (None, "pictures"):
        yield from _number_rows(problems_dataset(split, num, seed, folder, source.extra_cells))
    elif source.subset == "words":
        yield from _number_rows(words_dataset(split, num, seed, source.extra_cells))
    elif source.subset == "scenes":
        if source.extra_cells:
            raise DataError(f"extra_cells={source.extra_cells} with scenes; expected puzzles, or 0")
        yield from _number_rows(scenes_dataset(split, num, seed, folder))
    else:
        raise DataError(
            f"reader 'tiny' has no subset {source.subset!r}; expected pictures (the puzzles), "
            "words (the same puzzles as text) or scenes (what is seen in a picture)"
        )


def _tiny_seed_thoughts(source: PartConfig, seed: int) -> Iterator[Row]:
    from virgo_ray.tiny.datasets import seed_thoughts_dataset
    from virgo_ray.tiny.scene_thoughts import scene_thoughts_dataset

    num = _required_num(source)
    if source.subset in (None, "puzzles"):
        yield from _number_rows(seed_thoughts_dataset(num, seed, source.style))
    elif source.subset == "scenes":
        try:
            yield from _number_rows(scene_thoughts_dataset(num, seed))
        except ValueError as error:
            raise DataError(f"{describe(source)}: {error}") from error
    else:
        raise DataError(
            f"reader 'tiny' has no seed thoughts of subset {source.subset!r}; expected puzzles or "
            "scenes (what is seen in a picture)"
        )


def _required_num(source: PartConfig) -> int:
    if source.num is None:
        raise DataError(f"{describe(source)} is generated without end; set how many with `num`")
    return source.num


# -- easy-VQA --------------------------------------------------------------------------------------


def _easyvqa_problems(source: PartConfig) -> Iterator[Row]:
    try:
        import easy_vqa
    except ModuleNotFoundError as error:
        raise DataError(
            "reader 'easyvqa' needs the package easy-vqa; install it with "
            "`pip install 'virgo_ray[easyvqa]'`"
        ) from error
    split = _map_split(source, {"train": "train", "heldout": "test", "test": "test"})
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


def _number_rows(records: Any) -> Iterator[Row]:
    for number, fields in enumerate(records, 1):
        yield Row(number, fields)


def _map_split(source: PartConfig, splits: Mapping[str, str]) -> str:
    if source.split not in splits:
        raise DataError(
            f"reader {source.reader!r} has no split {source.split!r}; "
            f"expected one of {', '.join(splits)}"
        )
    return splits[source.split]
