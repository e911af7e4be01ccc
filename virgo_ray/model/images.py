"""Image files: pixels, sizes from headers, whole-file checks, content hashes.

Every part of the system that opens a picture for the model does it with `load_image`, so that
trainer and sampler see the same pixels: upright, RGB, on white where it is transparent. Knows
nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virgo_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_000_000  # Pillow's own limit for "may be a decompression bomb"
STILL_FORMATS = ("MPO",)  # several pictures of one scene: the first is the photograph
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height


class ImageError(DataError):
    """A picture that cannot be used; `kind` says in two words why."""

    kind = "image corrupt"


def load_image(path: str) -> Image:
    """The picture as RGB pixels: turned upright as its EXIF data say, transparency on white, more
    than 8 bits a channel scaled down, the first picture of a file that shows one scene.

    Raises:
        ImageError: missing, no image, cut off, animated, or so large that it may be an attack.
    """
    with _open(path) as image:
        return _rgb(_upright(image))


def image_size(path: str) -> tuple[int, int]:
    """(width, height) as `load_image` gives them, from the header, without decoding the picture."""
    with _open(path) as image:
        width, height = image.size
        is_sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        return (height, width) if is_sideways else (width, height)


def image_hash(paths: tuple[str, ...]) -> str:
    """Hash of the files' bytes, in order; empty without images. Says which pixels were seen."""
    if not paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _rgb(image: Image) -> Image:
    from PIL import Image as Pillow

    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256, "L").convert("RGB")
    if image.mode in ("I", "F"):
        extrema: Any = image.getextrema()  # one channel: (lowest, highest)
        low, high = extrema
        scale = 255 / (high - low) if high > 255 or low < 0 else 1
        return image.point(lambda value: value * scale).convert("L").convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Pillow.new("RGBA", image.size, "white")
        return Pillow.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _open(path: str) -> Iterator[Image]:
    """A PIL image whose errors, also those met while decoding inside, become ImageError."""
    from PIL import Image

    unreadable = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS} pixels")
            if getattr(image, "is_animated", False) and image.format not in STILL_FORMATS:
                raise ValueError("it is animated: several pictures in one file")
            yield image
    except unreadable as error:  # broken PNGs come as SyntaxError
        raise _image_error(path, error) from error


def _image_error(path: str, error: Exception) -> ImageError:
    text = str(error)
    found = ImageError(
        f"image {path!r} cannot be read ({type(error).__name__}: {text}); expected a complete "
        "PNG, JPEG or WebP file: fetch it again or remove its row"
    )
    if not Path(path).is_file():
        found.kind = "image missing"
    elif Path(path).stat().st_size == 0:
        found.kind = "image empty"
    elif "pixels" in text:
        found.kind = "image enormous"
    elif "animated" in text:
        found.kind = "image animated"
    elif "truncated" in text or "Truncated" in text or isinstance(error, EOFError):
        found.kind = "image truncated"
    return found
