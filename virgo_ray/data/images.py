"""Image files: pixels, sizes from headers, whole-file checks, content hashes.

Every part of the system that opens a picture for the model does it with `load_image`, so that
trainer and sampler see the same pixels. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from virgo_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_000_000  # Pillow's own limit for "may be a decompression bomb"


def load_image(path: str) -> Image:
    """The picture as RGB pixels, as stored (EXIF rotation is not applied).

    Raises:
        DataError: the file is missing, no image, cut off, or so large that it may be an attack.
    """
    with _opened(path) as image:
        return image.convert("RGB")


def image_size(path: str) -> tuple[int, int]:
    """(width, height) from the header, without decoding the picture."""
    with _opened(path) as image:
        return image.size


def check_image(path: str) -> None:
    """Decode the whole file.

    Raises:
        DataError: as `load_image`.
    """
    load_image(path)


def image_hash(paths: tuple[str, ...]) -> str:
    """Hash of the files' bytes, in order; empty without images. Says which pixels were seen."""
    if not paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def _opened(path: str) -> Iterator[Image]:
    """A PIL image whose errors, also those met while decoding inside, become DataError."""
    from PIL import Image

    unreadable = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS} pixels")
            yield image
    except unreadable as error:  # broken PNGs come as SyntaxError
        raise DataError(
            f"image {path!r} cannot be read ({type(error).__name__}: {error}); expected a complete "
            "PNG, JPEG or WebP file: fetch it again or remove its row"
        ) from error
