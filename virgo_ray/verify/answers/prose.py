r"""Sentences that are no mathematics, told before a LaTeX parser reads every letter as a variable.

Guarantees: linear time, no exception on any string, and caution: an answer with few words, or with
a formula for every few words, is no prose.
"""

from __future__ import annotations

import re

MIN_WORDS = 5
WORDS_PER_FORMULA = 5
# What stands further behind changes nothing.
MAX_CHARS = 4000

_NOTE = re.compile(r"\\(?:text[a-z]{0,6}|mathrm|mbox)\s?\{([^{}]{0,4000})\}")
_FORMULA = re.compile(r"[0-9\\=^_+*<>|{}]")
_SEPARATORS = re.compile(r"[\s,;:!?.()\"\u3001\u3002\uff0c\u2014-]+")
_SNAKE = re.compile(r"(?<=[A-Za-z]{2})_(?=[A-Za-z]{2})")
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
# Words of answers such as "all real numbers except 2", "x = 1 or x = 2 where n is an integer".
_MATHEMATICAL_WORDS = """
all and any are at between both by each either else except even excluding exists for from
given greater if in including infinity infinitely infinite integer integers into is less
many minus mod modulo most natural negative no nonnegative nonzero not number numbers odd of
or otherwise over plus positive prime real reals root roots solution solutions sin cos tan
log ln exp such than that the there times to undefined union valid value values when where
whole with zero degrees percent squared cubed square
"""
_MATHEMATICAL = frozenset(_MATHEMATICAL_WORDS.split())


def is_prose(text: str) -> bool:
    r"""Whether an answer is several ordinary words with little mathematics among them.

    >>> is_prose("I hope this helps, let me know if anything is unclear")
    True
    >>> [is_prose(t) for t in ("all real numbers except x = 2", r"x \text{ as the price we found}")]
    [False, False]
    """
    text = text[:MAX_CHARS].strip(" \n\t$")
    whole = _NOTE.fullmatch(text)
    text = whole[1] if whole else _NOTE.sub(" ", text)
    tokens = _SEPARATORS.split(_SNAKE.sub(" ", text))
    num_words = sum(map(_is_word, tokens)) + len(_UNSPACED.findall(text)) // 2
    num_formulas = sum(map(_is_formula, tokens))
    return num_words >= MIN_WORDS and num_words >= WORDS_PER_FORMULA * num_formulas


def _is_word(token: str) -> bool:
    """A word of two letters or more; capitals only at its beginning, and none of mathematics."""
    letters = token.replace("'", "").replace("\u2019", "")
    is_spelled = len(letters) > 1 and letters.isalpha() and letters[1:].islower()
    return is_spelled and token.casefold() not in _MATHEMATICAL


def _is_formula(token: str) -> bool:
    is_variable = len(token) == 1 and token.isalpha() and token not in "aAI"
    return is_variable or _FORMULA.search(token) is not None
