"""Seed thoughts in: textual long thoughts (the paper's D_T), from the puzzles or from files.

A row has a `question` (or `problem`, `instruction`, `prompt`) and a thought in one of the forms of
`thoughts.py`; it may carry `id, answer, context, source` (or `domain`). Guarantees text without
pictures in one format, unique ids, lengths and domain shares as configured, and a choice that
depends on the seed only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from virgo_ray.config import PartConfig, SeedThoughtsConfig
from virgo_ray.data.rows import (
    Reading,
    Row,
    RowError,
    content_id,
    describe,
    in_order,
    parse_rows,
    refuse_too_few,
    required_text,
    text_field,
    without_repeated,
)
from virgo_ray.data.sources import seed_thought_rows
from virgo_ray.data.thoughts import ThoughtFormat, thought_text
from virgo_ray.errors import DataError
from virgo_ray.records import Problem, SeedThought

CountTokens = Callable[[str], int]
Numbered = tuple[int, SeedThought]


def load_seed_thoughts(
    source: SeedThoughtsConfig,
    seed: int,
    wanted: ThoughtFormat = "tags",
    count_tokens: CountTokens | None = None,
) -> list[SeedThought]:
    """The seed thoughts of a source, `source.num` of them chosen by `seed`; nothing bad tolerated.

    Raises:
        DataError: rows that cannot be used, by number; or fewer than `source.num`.
    """
    readings = read_seed_thoughts(source, seed, wanted, count_tokens)
    for reading in readings:
        reading.refuse()
    return [thought for reading in readings for thought in reading.records]


def read_seed_thoughts(
    source: SeedThoughtsConfig,
    seed: int,
    wanted: ThoughtFormat = "tags",
    count_tokens: CountTokens | None = None,
) -> list[Reading[SeedThought]]:
    """What became of the rows of each part of a source; `count_tokens` is needed for length limits.

    Raises:
        DataError: a part cannot be read at all, or holds too few usable rows.
    """
    parts = source.parts or (source,)
    return [_read_part(source, part, seed, wanted, count_tokens) for part in parts]


def _read_part(
    source: SeedThoughtsConfig,
    part: PartConfig,
    seed: int,
    wanted: ThoughtFormat,
    count_tokens: CountTokens | None,
) -> Reading[SeedThought]:
    reading: Reading[SeedThought] = Reading(describe(part))
    is_ours = part.reader == "tiny"  # its short style has no tags on purpose
    parsed = parse_rows(
        seed_thought_rows(part, seed),
        lambda row: to_seed_thought(row, None if is_ours else wanted),
        reading,
    )
    unique = without_repeated(parsed, lambda thought: thought.problem.id, reading)
    ordered = in_order(unique, part, seed, lambda _: ())
    fitting = _of_length(ordered, source, reading, count_tokens)
    reading.taken = _shared_out(fitting, part.num, source.shares, reading)
    refuse_too_few(reading, part.num)
    return reading


def to_seed_thought(row: Row, wanted: ThoughtFormat | None = "tags") -> SeedThought:
    """Check the fields of one row; its thought in the wanted format, or untouched.

    Raises:
        RowError: no question or thought, or a picture.
    """
    if row.fields.get("images") or row.fields.get("image"):
        raise RowError("has an image", "seed thoughts are text only; use a `context` instead")
    question = required_text(row, "question", "problem", "instruction", "prompt")
    thought = required_text(row, "thought") if wanted is None else thought_text(row.fields, wanted)
    context = text_field(row, "context")
    problem = Problem(
        id=text_field(row, "id") or content_id(question, context, thought),
        question=question,
        answer=text_field(row, "answer"),
        source=text_field(row, "domain") or text_field(row, "source") or "unknown",
        context=context,
    )
    return SeedThought(problem, thought)


def _of_length(
    ordered: Sequence[Numbered],
    source: SeedThoughtsConfig,
    reading: Reading[SeedThought],
    count_tokens: CountTokens | None,
) -> list[Numbered]:
    """Those whose thought has `min_tokens` to `max_tokens` tokens; the others are counted."""
    if not source.min_tokens and source.max_tokens is None:
        return list(ordered)
    if count_tokens is None:
        raise DataError("min_tokens and max_tokens need a tokenizer; give `count_tokens`")
    kept = []
    for number, thought in ordered:
        num_tokens = count_tokens(thought.thought)
        if num_tokens < source.min_tokens:
            reading.left_out[f"thought shorter than min_tokens={source.min_tokens}"] += 1
        elif source.max_tokens is not None and num_tokens > source.max_tokens:
            reading.left_out[f"thought longer than max_tokens={source.max_tokens}"] += 1
        else:
            kept.append((number, thought))
    return kept


def _shared_out(
    ordered: Sequence[Numbered],
    num: int | None,
    shares: Mapping[str, float],
    reading: Reading[SeedThought],
) -> list[Numbered]:
    """The first `num`; with shares, the first of every domain in proportion."""
    if not shares or num is None:
        return list(ordered[:num])
    of_domain: dict[str, list[Numbered]] = defaultdict(list)
    for numbered in ordered:
        of_domain[numbered[1].problem.source].append(numbered)
    for domain in of_domain.keys() - shares.keys():
        reading.left_out[f"of domain {domain!r}, which has no share"] += len(of_domain[domain])
    counts = proportions(shares, num)
    short = {d: len(of_domain[d]) for d, count in counts.items() if len(of_domain[d]) < count}
    if short:
        have = ", ".join(f"{d!r} has {n} of {counts[d]}" for d, n in short.items())
        raise DataError(f"{reading.where}: too few thoughts for `shares`: {have}; lower `num`")
    chosen = {number for d, count in counts.items() for number, _ in of_domain[d][:count]}
    return [numbered for numbered in ordered if numbered[0] in chosen]


def proportions(shares: Mapping[str, float], num: int) -> dict[str, int]:
    """Whole numbers in these proportions that add up to `num` (largest remainders first).

    >>> proportions({"math": 0.74, "science": 0.18, "code": 0.04, "puzzle": 0.04}, 10)
    {'math': 7, 'science': 2, 'code': 1, 'puzzle': 0}
    """
    exact = {name: share / sum(shares.values()) * num for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: num - sum(counts.values())]:
        counts[name] += 1
    return counts
