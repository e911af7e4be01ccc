"""Token ids in four bytes each: a round's examples are in the driver and in every rank."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class TokenIds(Sequence[int]):
    """Token ids that never change; equal to any other sequence of the same ids, and to its hash.

    >>> TokenIds((5, 7)) == (5, 7), hash(TokenIds((5, 7))) == hash((5, 7)), TokenIds((5, 7))[1:]
    (True, True, TokenIds((7,)))
    """

    __slots__ = ("_ids",)
    _ids: array[int]

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids = ids._ids if isinstance(ids, TokenIds) else array("i", ids)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> TokenIds: ...
    def __getitem__(self, place: int | slice) -> int | TokenIds:
        return TokenIds(self._ids[place]) if isinstance(place, slice) else self._ids[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def count(self, id: int) -> int:
        return self._ids.count(id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return self._ids == other._ids
        return tuple(self._ids) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._ids))

    def __repr__(self) -> str:
        return f"TokenIds({tuple(self._ids)!r})"
