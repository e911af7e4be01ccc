"""Columns that hold media and are not read: pictures under another name, videos, recordings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from virgo_ray.data.rows import RowError

_SUFFIX = r"(?:_?(?:paths?|files?|file_?names?|urls?|bytes|base64|\d{1,2}))?"
_PICTURES = re.compile(
    rf"(?:\w{{0,30}}_)?(?:images?|imgs?|pictures?|pics?|photos?|figures?|screenshots?|diagrams?){_SUFFIX}",
    re.IGNORECASE,
)
_RECORDINGS = re.compile(rf"(?:videos?|audios?|sounds?|speech|clips?){_SUFFIX}", re.IGNORECASE)
READ = ("images", "image")


def picture_columns(fields: Mapping[str, Any]) -> list[str]:
    """Names of columns that look like pictures and are not read.

    >>> picture_columns({"question": "?", "image_path": "a.png", "image_id": "7", "img": None})
    ['image_path']
    """
    return [
        name
        for name, value in fields.items()
        if name not in READ and _PICTURES.fullmatch(name) and _holds_media(value)
    ]


def refuse_recordings(fields: Mapping[str, Any]) -> None:
    """
    Raises:
        RowError: the row comes with a video or a recording, which would be left out of its problem.
    """
    found = next((n for n, v in fields.items() if _RECORDINGS.fullmatch(n) and _holds_media(v)), "")
    if found:
        raise RowError(
            "other media",
            f"{found}={fields[found]!r:.60}: only pictures are read; take out the rows with videos "
            "and recordings",
        )


def _holds_media(value: Any) -> bool:
    return bool(value) and isinstance(value, str | bytes | list | tuple | Mapping)
