"""Control tokens: a text of data or users never makes one, whatever it says.

A tokenizer reads `<|im_end|>` in a question as the end of a turn, so a question could forge an
answer, and a thought that mentions it would teach to stop. Such a string is read as the letters
that it is made of. Tags of thoughts are no control tokens, and a text without control tokens is
encoded as ever.
"""

from __future__ import annotations

import re
from typing import Any

from virgo_ray.config import FORMATS

KEPT = frozenset(tag for tags in FORMATS for tag in tags)
# Noncharacters of Unicode stand around a number in place of a control token, until it is encoded.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_PLACE = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class SafeEncoder:
    """Encodes text with a tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        self._tokens = sorted({token for token in added if token not in KEPT and len(token) > 1})
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text that comes from data."""
        return self.encode_rendered(self.shield(text))

    def shield(self, text: str) -> str:
        """A text for a chat template: control tokens are replaced by places that
        `encode_rendered` knows."""
        text = text.replace(_OPEN, "").replace(_CLOSE, "")
        return self._pattern.sub(
            lambda found: f"{_OPEN}{self._tokens.index(found.group())}{_CLOSE}", text
        )

    def encode_rendered(self, rendered: str) -> tuple[int, ...]:
        """The ids of a rendered template: its own tokens are tokens, shielded ones letters."""
        ids: list[int] = []
        for i, piece in enumerate(_PLACE.split(rendered)):
            if i % 2 == 0:
                ids += self._encode(piece) if piece else []
            else:  # in two pieces, neither of which is the token
                token = self._tokens[int(piece)]
                ids += [*self._encode(token[0]), *self._encode(token[1:])]
        return tuple(ids)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
