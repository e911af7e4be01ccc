"""VLMEvalKit's TSV: `index, image (base64), question, hint, A, B ..., answer, category, split`.

A row whose `image` is the index of another row uses that row's picture; several pictures are a list
written as text; `image_path` names files. Gold answers of choice questions are letters.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.data.files import tsv_rows
from virgo_ray.data.rows import Row

DATA_URL = "data:image/any;base64,"
LONGEST_INDEX = 64  # VLMEvalKit's own rule: a shorter image cell is the index of another row


def vlmevalkit_rows(source: PartConfig) -> Iterator[Row]:
    """Rows with canonical fields; pictures as data: URLs or paths."""
    name = Path(source.path or "").stem
    shared = _shared_pictures(source)
    for row in tsv_rows(source):
        try:
            yield row if row.broken else _canonical(row, shared, name)
        except (ValueError, SyntaxError) as error:
            yield Row(row.number, {}, row.folder, f"its cells cannot be read: {error}")


def _shared_pictures(source: PartConfig) -> dict[str, str]:
    """Image cells that other rows point to, by index; only these are held in memory."""
    images = (row.fields.get("image") for row in tsv_rows(source))
    wanted = {image for image in images if image and len(image) <= LONGEST_INDEX}
    if not wanted:
        return {}
    cells = (row.fields for row in tsv_rows(source) if row.fields.get("index") in wanted)
    return {cell["index"]: cell["image"] for cell in cells if cell.get("image")}


def _canonical(row: Row, shared: Mapping[str, str], name: str) -> Row:
    cells = row.fields
    index, image = cells.get("index") or str(row.number), cells.get("image")
    if image and len(image) <= LONGEST_INDEX:
        if image not in shared or len(shared[image]) <= LONGEST_INDEX:
            raise ValueError(f"image={image!r} is not the index of a row with a picture")
        image = shared[image]
    options = _options(cells)
    category = cells.get("category")
    fields = {
        **cells,
        "id": f"{name}-{index}",
        "images": [DATA_URL + cell for cell in _list(image)]
        if image
        else _list(cells.get("image_path") or "[]"),
        "options": options or None,
        "keeps_letters": True,  # an empty cell is no fault
        "context": cells.get("hint"),
        "source": f"{name}/{category}" if category else name,
        "answer_type": "choice" if options else None,
    }
    return Row(row.number, fields, row.folder)


def _options(cells: Mapping[str, Any]) -> list[str]:
    """The cells A, B, C ... up to the last that is filled: a letter keeps its column, and one whose
    cell is empty has an empty option."""
    options = [str(cells.get(letter) or "") for letter in ascii_uppercase]
    while options and not options[-1]:
        options.pop()
    return options


def _list(text: str) -> list[str]:
    """A cell that holds one value, or a Python list of them as text."""
    return ast.literal_eval(text) if text.startswith("[") else [text]
