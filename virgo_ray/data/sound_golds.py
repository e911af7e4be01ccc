"""Gold answers that were found sound before are not judged again.

A fault is never remembered: it may come from a deadline, and there should be few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from virgo_ray import verify
from virgo_ray.closing import Closing
from virgo_ray.config import VerifyConfig
from virgo_ray.data.fact_file import FactFile, digest_code, make_key
from virgo_ray.records import Problem
from virgo_ray.verify.process.golds import GoldChecker

CHECKED_AT_ONCE = 64
Numbered = tuple[int, Problem]


class SoundGolds(Closing):
    """A GoldChecker with a memory in the cache directory; a context that ends its processes."""

    def __init__(self, cache_dir: Path, cfg: VerifyConfig | None = None) -> None:
        sources = sorted(map(str, Path(verify.__file__).parent.rglob("*.py")))
        self._file = FactFile(cache_dir, "golds", digest_code(*sources))
        self._checker = GoldChecker(cfg)

    def close(self) -> None:
        """Write what was learnt, and end the processes."""
        self._file.flush()
        self._checker.close()

    def find_faults(self, numbered: Sequence[Numbered]) -> Iterator[tuple[Numbered, str]]:
        """Each problem with what is wrong with its gold answer, in order; empty where nothing is.

        Raises:
            VerifierError: no judging process can be started.
        """
        for place in range(0, len(numbered), CHECKED_AT_ONCE):
            some = numbered[place : place + CHECKED_AT_ONCE]
            yield from zip(some, self._find([problem for _, problem in some]), strict=True)

    def _find(self, problems: Sequence[Problem]) -> list[str]:
        keys = [make_key(p.answer, p.answer_type, p.options) for p in problems]
        unknown = {key: p for key, p in zip(keys, problems, strict=True) if key not in self._file}
        found = self._checker.find_faults(list(unknown.values()))
        faults = dict(zip(unknown, found, strict=True))
        for key, fault in faults.items():
            if not fault:
                self._file.put(key, True)
        return [faults.get(key, "") for key in keys]
