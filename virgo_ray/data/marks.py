"""Marks that say where pictures stand in a text: `<image>`, `<image1>`, `<image_1>`, `<image 1>`.

In a prompt pictures come first, so marks become words, or nothing where they only lead the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from virgo_ray.data.rows import RowError

MARK = re.compile(r"<image[ _]?(\d*)>")
# Other families' marks: of a picture that a model would not be shown, or of what is no picture.
FOREIGN = re.compile(
    r"<img\b[^<>]{0,300}>|</img>|<image_placeholder>|<image_soft_token>|<\|image(?:_pad)?\|>"
    r"|<\|vision_(?:start|end|pad)\|>|\[IMG\]|<ImageHere>|<Image>|<start_of_image>"
    r"|!\[[^\]\n]{0,200}\]\([^)\s]{1,500}\)|^\s*<(?:video|audio|sound|speech|point_cloud)>"
)
LEADING_MARKS = re.compile(r"^(?:\s*<image[ _]?\d*>)+\s*")


def remove_marks(texts: Sequence[str], num_images: int) -> list[str]:
    """Drop marks that lead a text, and turn marks inside it into words.

    Pictures come first in a prompt. `texts` are the context, the question and the options.

    Raises:
        RowError: marks and pictures do not agree, there is nothing but marks, or a mark of another
            family's.

    >>> remove_marks(["", "<image>How many?"], 1)
    ['', 'How many?']
    >>> remove_marks(["", "<image>Is it <image2>?", "red"], 2)
    ['', 'Is it image 2?', 'red']
    """
    foreign = next((found.group() for text in texts if (found := FOREIGN.search(text))), None)
    if foreign:
        raise RowError(
            "foreign mark",
            f"{foreign.strip():.80} stands for a picture or recording in another layout; expected "
            "<image> for a picture of `images`, and no mark of anything else",
        )
    marks = [mark for text in texts for mark in MARK.findall(text)]
    numbers = [int(mark) if mark else i for i, mark in enumerate(marks, 1)]
    if not numbers:
        return list(texts)
    if set(numbers) != set(range(1, num_images + 1)):
        raise RowError(
            "image marks", f"{len(numbers)} <image> marks in the text, {num_images} images"
        )
    order = iter(numbers)
    leads = (LEADING_MARKS.match(text) for text in texts[:2])  # in an option a mark says something
    starts = [*(lead.end() if lead else 0 for lead in leads), *(0 for _ in texts[2:])]
    context, question, *options = [
        _replace_marks(text, start, order, num_images)
        for text, start in zip(texts, starts, strict=True)
    ]
    if not question:
        raise RowError("empty question", "nothing but <image> marks")
    return [context, question, *(option or "image 1" for option in options)]


def _replace_marks(text: str, start: int, numbers: Iterator[int], num_images: int) -> str:
    """Turn the marks from `start` on into words; `numbers` yields the picture of each mark."""
    for _ in MARK.finditer(text, 0, start):
        next(numbers)
    body = text[start:]

    def word(mark: re.Match[str]) -> str:
        number = next(numbers)
        if num_images > 1:
            return f"image {number}"
        before, after = body[: mark.start()].rstrip(" "), body[mark.end() :].lstrip(" ")
        is_inside = before and before[-1] not in "\n.?!:" and after and after[0] not in "\n"
        return "the image" if is_inside else ""

    return MARK.sub(word, body).strip()
