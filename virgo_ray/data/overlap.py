"""What is held out is not trained on: the same problems are bad rows, near duplicates are named."""

from __future__ import annotations

from collections.abc import Sequence

from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.near_duplicates import find_near_duplicates
from virgo_ray.data.problems import find_shared_pairs
from virgo_ray.data.rows import Fault, Reading
from virgo_ray.records import Problem, SeedThought

Held = tuple[str, Problem]  # a problem with the key of its source


def put_aside_taught(reading: Reading[SeedThought], held: Sequence[Held]) -> None:
    """Make faults of seed thoughts on problems that are held out."""
    questions = [thought.problem for thought in reading.records]
    pairs = find_shared_pairs(questions, [problem for _, problem in held])
    reading.put_aside({i: _same(reading.taken[i][0], held[j]) for i, j in pairs})


def put_aside_held(reading: Reading[Problem], held: Sequence[Held], gallery: Gallery) -> None:
    """Make faults of training problems that are held out too."""
    problems = [problem for _, problem in held]
    pairs = find_shared_pairs(reading.records, problems, gallery.image_hash)
    reading.put_aside({i: _same(reading.taken[i][0], held[j]) for i, j in pairs})


def find_near(
    reading: Reading[Problem], held: Sequence[Held], gallery: Gallery, is_near_bad: bool
) -> list[tuple[str, str]]:
    """Ids of training and held-out problems that are nearly the same, which may be a fault."""
    problems = [problem for _, problem in held]
    pairs = find_near_duplicates(reading.records, problems, gallery.looks)
    found = [(reading.records[i].id, problems[j].id) for i, j in pairs]
    if is_near_bad:
        reading.put_aside({i: _near(reading.taken[i][0], held[j]) for i, j in pairs})
    return found


def _same(row: int, held: Held) -> Fault:
    key, problem = held
    return Fault(row, "also held out", f"it is {problem.id!r} of {key}")


def _near(row: int, held: Held) -> Fault:
    key, problem = held
    return Fault(row, "nearly held out", f"it is a near duplicate of {problem.id!r} of {key}")
