"""A base for what holds processes or files until it is closed: `with` closes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context that calls `close` at its end, whatever happened in it."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back that is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
