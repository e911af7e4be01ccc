"""What a text is like, as small values, so that the text itself need not be kept."""

from __future__ import annotations

import hashlib
import heapq
import re
import zlib
from array import array
from collections.abc import Sequence

from virgo_ray.config import FORMATS, Format
from virgo_ray.stats.similarity import runs
from virgo_ray.verify.answers.extract import thought_part

REFLECTION = re.compile(
    r"\b(?:wait|hmm+|alternatively|on second thought|double[- ]check(?:ing)?|re-?check(?:ing)?|"
    r"re-?examin(?:e|ing)|re-?consider(?:ing)?|"
    r"(?:check|look|verify|count|read|think) (?:\w+ )?again)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"\w+|[^\w\s]")
OVERLAP_WORDS = 3
REPEATED_WORDS = 4
SIGNATURE_SIZE = 64  # hashes, 4 bytes each; the error of an overlap of 0.5 is about 0.06


def fingerprint(text: str) -> str:
    """Equal for texts that differ only in case and white space.

    >>> fingerprint("So 3 + 4.") == fingerprint("so  3 + 4.\\n")
    True
    >>> fingerprint("3 + 4") == fingerprint("3 - 4")
    False
    """
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:16]


def signature(text: str) -> bytes:
    """The smallest hashes of a text's word 3-grams, for `overlap` (Broder 1997, bottom-k sketch).

    At most 256 bytes whatever the length; case and white space do not count.
    """
    hashes = {_mix_bits(zlib.crc32(gram.encode())) for gram in _grams(text, OVERLAP_WORDS)}
    return array("I", heapq.nsmallest(SIGNATURE_SIZE, hashes)).tobytes()


def overlap(first: bytes, second: bytes) -> float:
    """The share of all word 3-grams of two texts that both have, from their signatures.

    Exact where both have at most 64 different ones together. Two empty texts overlap fully.

    >>> overlap(signature("a b c d"), signature("a b c e"))  # abc in both; bcd, bce
    0.3333333333333333
    """
    a, b = set(array("I", first)), set(array("I", second))
    union = heapq.nsmallest(SIGNATURE_SIZE, a | b)
    return sum(h in a and h in b for h in union) / len(union) if union else 1.0


def repetition(text: str) -> float:
    """The share of a text's word 4-grams that stood in it before.

    >>> repetition("one two three four five"), repetition("la " * 13)
    (0.0, 0.9)
    """
    grams = _grams(text, REPEATED_WORDS)
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def num_reflections(text: str) -> int:
    """How often the thought turns back on itself.

    >>> num_reflections("Wait, 3 + 4 is 7. Let me look again: 3 and 4. Alternatively, count.")
    3
    """
    return len(REFLECTION.findall(text))


def is_complete(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """False for a response whose tags are not whole: one that was opened and never closed, closed
    and never opened, or that stands there twice.

    A response without any tag is complete. The first tag may be missing: some chat templates end
    the prompt with it.

    >>> is_complete("<think>3 + 4</think> 7"), is_complete("3 + 4</think> 7"), is_complete("7")
    (True, True, True)
    >>> is_complete("<think>3 + 4"), is_complete("<think>3 + 4</think> 7</answer>")
    (False, False)
    """
    for tags in formats:
        used = [tag for tag in tags if tag and tag in text]
        if not used:
            continue
        needed = tags[1:] if tags.begin_solution in used or tags.end_solution in used else tags[1:2]
        places = [text.find(tag) for tag in tags if tag in used]
        is_whole = all(tag in used for tag in needed if tag)
        return is_whole and places == sorted(places) and all(text.count(t) == 1 for t in used)
    return True


def has_thought(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """Whether a finished, non-empty thought stands between its tags.

    >>> has_thought("<think>3 + 4</think> 7"), has_thought("7"), has_thought("<think></think> 7")
    (True, False, False)
    """
    return bool(thought_part(text, formats).strip())


def _grams(text: str, num_words: int) -> list[str]:
    """Runs of words and signs; a shorter text is one run."""
    words = WORD.findall(text.casefold())
    return [" ".join(run) for run in runs(words, num_words)] if words else []


def _mix_bits(value: int) -> int:
    """A bijection of 32 bits (the finaliser of MurmurHash3): a CRC's order is not random."""
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16
