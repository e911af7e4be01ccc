"""What a rollout has of every token, in four bytes each: a round's examples are in the driver and
in every rank."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self, TypeVar, overload

T = TypeVar("T", int, float)


class _Packed(Sequence[T]):
    """Numbers that never change; equal to any other sequence of the same numbers, and to its
    hash."""

    __slots__ = ("_ids",)
    CODE: ClassVar[str]  # of `array`
    _ids: array[T]

    def __init__(self, items: Iterable[T] = ()) -> None:
        same = isinstance(items, type(self))
        self._ids = items._ids if same else array(self.CODE, items)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> T | Self:
        return type(self)(self._ids[place]) if isinstance(place, slice) else self._ids[place]

    def __iter__(self) -> Iterator[T]:
        return iter(self._ids)

    def __contains__(self, item: object) -> bool:
        return item in self._ids

    def count(self, item: Any) -> int:
        return self._ids.count(item)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Packed):
            return self._ids == other._ids
        return tuple(self._ids) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._ids))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self._ids)!r})"


class TokenIds(_Packed[int]):
    """Token ids.

    >>> TokenIds((5, 7)) == (5, 7), hash(TokenIds((5, 7))) == hash((5, 7)), TokenIds((5, 7))[1:]
    (True, True, TokenIds((7,)))
    """

    __slots__ = ()
    CODE = "i"


class LogProbs(_Packed[float]):
    """Log-probabilities of tokens in nats, rounded to float32 as engines compute them.

    >>> LogProbs((-0.5, -2)) == (-0.5, -2), LogProbs((-0.1,))[0]
    (True, -0.10000000149011612)
    """

    __slots__ = ()
    CODE = "f"

    def tobytes(self) -> bytes:
        """The numbers as raw float32."""
        return self._ids.tobytes()
