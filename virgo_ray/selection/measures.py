"""What a text is like, as small values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from virgo_ray.config import FORMATS, Format
from virgo_ray.verify.extract import solution_part

REFLECTION = re.compile(
    r"\b(?:wait|hmm+|alternatively|on second thought|double[- ]check(?:ing)?|re-?check(?:ing)?|"
    r"re-?examin(?:e|ing)|re-?consider(?:ing)?|"
    r"(?:check|look|verify|count|read|think) (?:\w+ )?again)\b",
    re.IGNORECASE,
)


def fingerprint(text: str) -> str:
    """Equal for texts that differ only in case and white space.

    >>> fingerprint("So 3 + 4.") == fingerprint("so  3 + 4.\\n")
    True
    >>> fingerprint("3 + 4") == fingerprint("3 - 4")
    False
    """
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:16]


def num_reflections(text: str) -> int:
    """How often the thought turns back on itself.

    >>> num_reflections("Wait, 3 + 4 is 7. Let me look again: 3 and 4. Alternatively, count.")
    3
    """
    return len(REFLECTION.findall(text))


def is_complete(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """False for a thought or solution that was opened and never closed."""
    return not solution_part(text, formats=formats).is_truncated
