"""What one picture's file holds: its bytes' hash, its size, what it looks like, or what is wrong.

This is everything that reading data decodes pictures for. Knows no processes and no cache.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from virgo_ray.data.near_duplicates import PerceptualHash, hash_picture
from virgo_ray.model.images import ImageError, file_hash, image_error, load_image


@dataclass(frozen=True)
class PictureFacts:
    """Of a sound picture: `sha256` of the file's bytes, `pixels` the same of the decoded picture,
    `size` width and height of the upright picture in pixels."""

    sha256: str
    pixels: str
    size: tuple[int, int]
    look: PerceptualHash

    def to_json(self) -> dict[str, Any]:
        thumbnail = base64.b64encode(self.look.thumbnail).decode()
        return {
            "sha256": self.sha256, "pixels": self.pixels, "size": self.size,
            "bits": self.look.bits, "thumbnail": thumbnail,
        }  # fmt: skip

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PictureFacts:
        width, height = fields["size"]
        look = PerceptualHash(fields["bits"], base64.b64decode(fields["thumbnail"]))
        return cls(fields["sha256"], fields["pixels"], (width, height), look)


@dataclass(frozen=True)
class PictureFault:
    """Why a picture cannot be used. It `is_lasting` if that stays until the file changes."""

    kind: str
    detail: str
    is_lasting: bool = False

    @classmethod
    def of(cls, error: ImageError) -> PictureFault:
        return cls(error.kind, str(error), error.is_lasting)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "detail": self.detail, "is_lasting": self.is_lasting}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PictureFault:
        return cls(fields["kind"], fields["detail"], fields["is_lasting"])


def look_at(path: str) -> PictureFacts | PictureFault:
    """Decode a picture completely."""
    try:
        image = load_image(path)
        pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        return PictureFacts(_hash(path), pixels, image.size, hash_picture(image))
    except ImageError as error:
        return PictureFault.of(error)


def hash_file(path: str) -> str | PictureFault:
    """The hash of a picture's bytes, which are not decoded."""
    try:
        return _hash(path)
    except ImageError as error:
        return PictureFault.of(error)


def _hash(path: str) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise image_error(path, error) from error
