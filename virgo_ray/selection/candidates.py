"""What a choice between thoughts knows of each: numbers and signatures, never the text, so that
millions fit in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A CORRECT rollout, described.

    `num_correct` of `num_judged` samples of its problem in its round were correct (TIMEOUT and
    ERROR are not judged). `fingerprint` is equal for thoughts that differ only in case and spaces.
    `has_thought` where a finished thought stands between its tags. `signature` is that of
    `measures`. `is_doubted` where a second opinion doubts it, `is_blank_solved` where the problem
    was also solved with its pictures blanked.
    """

    round: int
    problem_id: str
    sample_index: int
    source: str
    num_tokens: int
    num_correct: int
    num_judged: int
    guess_chance: float = 0.0
    num_reflections: int = 0
    fingerprint: str = ""
    is_complete: bool = True
    has_thought: bool = True
    is_doubted: bool = False
    signature: bytes = b""
    repetition: float = 0.0
    is_blank_solved: bool = False

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.round, self.problem_id, self.sample_index)

    @property
    def pass_rate(self) -> float:
        return self.num_correct / self.num_judged


def by_problem(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for c in candidates:
        groups[c.problem_id].append(c)
    return groups
