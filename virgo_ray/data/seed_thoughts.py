"""Seed thoughts in: textual long thoughts (the paper's D_T), from the puzzles or from files.

A row has a `question` (or `problem`, `instruction`, `prompt`) and a thought in one of the forms of
`thoughts.py`; it may carry `id, answer, context, source` (or `domain`). Guarantees text without
pictures in one format, unique ids, lengths and domain shares as configured, and a choice that
depends on the seed only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from virgo_ray.config import SeedThoughtsConfig
from virgo_ray.config.escapes import find_command, find_control
from virgo_ray.data.rows import (
    Fault,
    Reading,
    Row,
    RowError,
    content_id,
    describe,
    drop_repeated,
    order_items,
    parse_rows,
    refuse_too_few,
    required_text,
    text_field,
)
from virgo_ray.data.sources import seed_thought_rows
from virgo_ray.data.thoughts import ThoughtFormat, thought_text
from virgo_ray.errors import DataError
from virgo_ray.records import Problem, SeedThought

CountTokens = Callable[[str], int]
Check = Callable[[SeedThought], None]  # raises RowError
Numbered = tuple[int, SeedThought]


def accept_all(thought: SeedThought) -> None:
    """Add no check to those made here."""


def read_seed_thoughts(
    source: SeedThoughtsConfig,
    seed: int,
    wanted: ThoughtFormat = "tags",
    count_tokens: CountTokens | None = None,
    check: Check = accept_all,
) -> list[Reading[SeedThought]]:
    """What became of the rows of each part of a source; `count_tokens` is needed for length limits.

    `check` says whether the model can take a thought, by RowError if not. What is bad or too long
    is replaced by further thoughts until `num` is reached.

    Raises:
        DataError: a part cannot be read at all, or holds too few usable rows.
    """
    if count_tokens is None and (source.min_tokens or source.max_tokens is not None):
        raise DataError("min_tokens and max_tokens need a tokenizer; give `count_tokens`")
    readings = []
    for part in source.parts or (source,):
        reading: Reading[SeedThought] = Reading(describe(part))
        parse = partial(to_seed_thought, wanted=wanted)
        parsed = parse_rows(seed_thought_rows(part, seed), parse, reading)
        unique = drop_repeated(parsed, lambda thought: thought.problem.id, reading)
        ordered = order_items(unique, part, seed, lambda _: ())
        reading.taken = list(_take_usable(ordered, source, part.num, reading, count_tokens, check))
        reading.faults.sort(key=lambda fault: fault.row)
        refuse_too_few(reading, part.num)
        readings.append(reading)
    return readings


def to_seed_thought(row: Row, wanted: ThoughtFormat = "tags") -> SeedThought:
    """Check the fields of one row; its thought in the wanted format.

    Raises:
        RowError: no question or thought, a picture, or a control character.
    """
    if row.fields.get("images") or row.fields.get("image"):
        raise RowError("has an image", "seed thoughts are text only; use a `context` instead")
    question = required_text(row, "question", "problem", "instruction", "prompt")
    thought = thought_text(row.fields, wanted)
    context = text_field(row, "context")
    for name, text in (("question", question), ("context", context), ("thought", thought)):
        damage = find_control(text) or find_command(text)
        if damage:
            raise RowError("control character", f"{name}: {damage}")
    problem = Problem(
        id=text_field(row, "id") or content_id(question, context, thought),
        question=question,
        answer=text_field(row, "answer"),
        source=text_field(row, "domain") or text_field(row, "source") or "unknown",
        context=context,
    )
    return SeedThought(problem, thought)


def _take_usable(
    ordered: Sequence[Numbered],
    source: SeedThoughtsConfig,
    num: int | None,
    reading: Reading[SeedThought],
    count_tokens: CountTokens | None,
    check: Check,
) -> Iterator[Numbered]:
    """Take thoughts in order until there are `num`; domains with a share get their part of it."""
    num_left = len(ordered) if num is None else num
    places = proportions(source.shares, num_left) if source.shares else {}
    for number, thought in ordered:
        domain = thought.problem.source
        if not num_left:
            return
        if source.shares and not places.get(domain):
            why = "has its share" if domain in places else "has no share"
            reading.left_out[f"of domain {domain!r}, which {why}"] += 1
            continue
        unfit = _why_unfit(thought.thought, source, count_tokens)
        if unfit:
            reading.left_out[unfit] += 1
            continue
        try:
            check(thought)
        except RowError as error:
            reading.faults.append(Fault(number, error.kind, error.detail))
            continue
        num_left -= 1
        if source.shares:
            places[domain] -= 1
        yield number, thought


def _why_unfit(text: str, source: SeedThoughtsConfig, count_tokens: CountTokens | None) -> str:
    """Say why a thought is outside the length band; empty if it is inside."""
    if count_tokens is None or (not source.min_tokens and source.max_tokens is None):
        return ""
    num_tokens = count_tokens(text)
    if num_tokens < source.min_tokens:
        return f"shorter than min_tokens={source.min_tokens}"
    if source.max_tokens is not None and num_tokens > source.max_tokens:
        return f"longer than max_tokens={source.max_tokens}"
    return ""


def proportions(shares: Mapping[str, float], num: int) -> dict[str, int]:
    """Whole numbers in these proportions that add up to `num` (largest remainders first).

    >>> proportions({"math": 0.74, "science": 0.18, "code": 0.04, "puzzle": 0.04}, 10)
    {'math': 8, 'science': 2, 'code': 0, 'puzzle': 0}
    """
    exact = {name: share / sum(shares.values()) * num for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: num - sum(counts.values())]:
        counts[name] += 1
    return counts
