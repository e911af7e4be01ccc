"""Image files: pixels, sizes from headers, whole-file checks, content hashes.

Every part of the system that opens a picture for the model does it with `load_image`, so that
trainer and sampler see the same pixels: upright, RGB, on white where it is transparent. Knows
nothing of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from virgo_ray.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_000_000  # Pillow's own limit for "may be a decompression bomb"
STILL_FORMATS = ("MPO",)  # several pictures of one scene: the first is the photograph
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height
DEEP_WHITES = (255, 1023, 4095, 16383, 65535)  # brightest numbers of 8, 10, 12, 14 and 16 bits
LEAST_CONTRAST = 24  # of 255; fainter writing cannot be read
# What Pillow does not read, and a command that makes a picture of it that it does.
CONVERTIBLE = {
    ".svg": "rsvg-convert IN.svg -o OUT.png",
    ".heic": "heif-convert IN.heic OUT.png",
    ".heif": "heif-convert IN.heif OUT.png",
    ".pdf": "pdftoppm -png IN.pdf OUT",
    ".eps": "magick IN.eps OUT.png",
    ".jxl": "djxl IN.jxl OUT.png",
}


class ImageError(DataError):
    """A picture that cannot be used; `kind` says in two words why.

    It `is_lasting` if the fault is in the file's bytes, so that it stays until they change.
    """

    kind = "image corrupt"
    is_lasting = False


def load_image(path: str) -> Image:
    """The picture as RGB pixels: turned upright as its EXIF data say, transparency on white (on
    black what would not show there), deep channels scaled to 8 bits, the first picture of a file
    that shows one scene.

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
    return join_hashes([file_hash(path) for path in paths])


def join_hashes(hashes: Sequence[str]) -> str:
    """The `image_hash` of files with these `file_hash`es."""
    if not hashes:
        return ""
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()[:16]


def file_hash(path: str) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _eight_bits(image).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        return _opaque(image.convert("RGBA"))
    return image.convert("RGB")


def _opaque(image: Image) -> Image:
    """On white; on black what hardly shows on white, such as a label made for dark pages."""
    on_white, on_black = (_laid_on(image, ground) for ground in ("white", "black"))
    if _contrast(on_white) < LEAST_CONTRAST <= _contrast(on_black):
        return on_black
    return on_white


def _laid_on(image: Image, ground: str) -> Image:
    from PIL import Image as Pillow

    return Pillow.alpha_composite(Pillow.new("RGBA", image.size, ground), image).convert("RGB")


def _contrast(image: Image) -> int:
    """Of grey levels, from 0 (one colour, or as good as one) to 255."""
    low, high = image.convert("L").getextrema()
    assert not isinstance(low, tuple) and not isinstance(high, tuple)
    return int(high - low)


def _eight_bits(image: Image) -> Image:
    """One channel of deep numbers as grey levels.

    Whole numbers are divided by the range that they use: 255, or the least of 10, 12, 14 and 16
    bits that holds the brightest. Fractions within 0..1 are shares of white. Anything else is
    stretched from the darkest to the brightest.
    """
    import numpy as np
    from PIL import Image as Pillow

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not every pixel is a finite number")
    low, high = float(values.min()), float(values.max())
    is_whole = bool((values == np.floor(values)).all())
    if low >= 0 and high <= 1 and image.mode == "F":
        grey = np.rint(values * 255)
    elif low >= 0 and is_whole and high <= DEEP_WHITES[-1]:
        grey = values * 256 / (1 + next(white for white in DEEP_WHITES if high <= white))
    else:
        grey = np.rint((values - low) * (255 / ((high - low) or 1.0)))
    return Pillow.fromarray(grey.astype(np.uint8))


@contextmanager
def _open(path: str) -> Iterator[Image]:
    """A PIL image whose errors, also those met while decoding inside, become ImageError."""
    from PIL import Image

    try:
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
            raise ValueError("it is a pipe or a device")  # reading it might never end
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS} pixels")
            if getattr(image, "is_animated", False) and image.format not in STILL_FORMATS:
                raise ValueError("it is animated: several pictures in one file")
            yield image
    except Exception as error:  # the decoders' boundary: each has errors of its own kind
        raise image_error(path, error) from error


def image_error(path: str, error: Exception) -> ImageError:
    """What went wrong with a picture, in the words that users see."""
    text = str(error)
    way_out = "fetch it again or remove its row"
    if Path(path).suffix.lower() in CONVERTIBLE:
        way_out = f"convert it to PNG, for example with `{CONVERTIBLE[Path(path).suffix.lower()]}`"
    found = ImageError(
        f"image {path!r} cannot be read ({type(error).__name__}: {text}); expected a complete "
        f"PNG, JPEG or WebP file: {way_out}"
    )
    # An error with a number is the system's: rights, a disk, a network.
    found.is_lasting = not isinstance(error, MemoryError) and not getattr(error, "errno", None)
    if not Path(path).is_file():
        found.kind = "image missing"
        found.is_lasting = False
    elif Path(path).stat().st_size == 0:
        found.kind = "image empty"
    elif "pixels" in text:
        found.kind = "image enormous"
    elif "finite" in text:
        found.kind = "image not finite"
    elif "animated" in text:
        found.kind = "image animated"
    elif "truncated" in text or "Truncated" in text or isinstance(error, EOFError):
        found.kind = "image truncated"
    return found
