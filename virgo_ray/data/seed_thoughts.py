"""Seed thoughts in: textual long thoughts (the paper's D_T), from the puzzles or from files.

A file's row is either `question, thought` or STILL-2's `question, combined_text`; both may carry
`id, answer, context, source`. Guarantees text without pictures, unique ids, and a choice that
depends on the seed only. Knows nothing of tokens or lengths.
"""

from __future__ import annotations

from virgo_ray.config import SourceConfig
from virgo_ray.data.rows import (
    Row,
    RowError,
    content_id,
    describe,
    parse_rows,
    refuse_repeated,
    required_text,
    take,
    text_field,
)
from virgo_ray.data.sources import seed_thought_rows
from virgo_ray.records import Problem, SeedThought


def load_seed_thoughts(source: SourceConfig, seed: int) -> list[SeedThought]:
    """The seed thoughts of a source, `source.num` of them chosen by `seed`.

    Raises:
        DataError: rows that cannot be used, by number; or fewer than `source.num`.
    """
    where = describe(source)
    parsed = parse_rows(seed_thought_rows(source, seed), to_seed_thought, where)
    refuse_repeated([(n, thought.problem.id) for n, thought in parsed], len(parsed), where)
    return [thought for _, thought in take(parsed, source, seed, lambda _: ())]


def to_seed_thought(row: Row) -> SeedThought:
    """Check the fields of one row.

    Raises:
        RowError: no question or thought, or a picture.
    """
    if row.fields.get("images") or row.fields.get("image"):
        raise RowError("has an image", "seed thoughts are text only; use a `context` instead")
    question = required_text(row, "question")
    thought = required_text(row, "thought", "combined_text")
    context = text_field(row, "context")
    problem = Problem(
        id=text_field(row, "id") or content_id(question, context, thought),
        question=question,
        answer=text_field(row, "answer"),
        source=text_field(row, "source") or text_field(row, "domain") or "unknown",
        context=context,
    )
    return SeedThought(problem, thought)
