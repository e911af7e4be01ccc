"""Small copies of pictures for the report, named by their contents, so that none is made twice."""

from __future__ import annotations

import io

from virgo_ray.errors import DataError, DiskError
from virgo_ray.model.images import load_image
from virgo_ray.report.pages import Folder

SIDE = 512  # pixels, the longer one
PICTURES = "pictures"


def picture_name(image_hash: str, index: int) -> str:
    """Of one of a problem's pictures; `image_hash` is that of all of them."""
    return f"{PICTURES}/{image_hash}-{index}.webp"


def write_picture(folder: Folder, path: str, name: str) -> bool:
    """Copy a picture into the folder unless it is there; False where it cannot be read.

    Raises:
        DiskError: the file system refused to write.
    """
    if folder.has(name):
        return True
    try:
        image = load_image(path)
    except DiskError:
        raise
    except DataError:
        return False
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=82)
    folder.write(name, out.getvalue())
    return True
