"""What a config would read, as text for a person: counts, first rows, lengths, bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from virgo_ray.data.ingest import Intake, picture_counts
from virgo_ray.data.rows import MAX_SHOWN, Reading
from virgo_ray.model.images import image_size
from virgo_ray.records import Problem, SeedThought

NUM_FIRST = 3
NUM_BINS = 12
BAR = 40
WIDTH = 96


def describe_intake(intake: Intake) -> str:
    """The whole page."""
    return "\n".join(_page(intake))


def _page(intake: Intake) -> Iterator[str]:
    for key, reading in intake.readings.items():
        yield from _source(key, reading)
    for name, lengths in intake.num_tokens.items():
        what = "prompt and thought" if name == "seed_thoughts" else "prompt, images expanded"
        yield f"\n{name}: tokens of {what}"
        yield from histogram(lengths)
    if intake.near_duplicates:
        shown = ", ".join(f"{a} ~ {b}" for a, b in intake.near_duplicates[:MAX_SHOWN])
        num = len(intake.near_duplicates)
        yield f"\n{num} training problems are near duplicates of held-out ones: {shown}"
    yield ""
    if intake.num_faults:
        yield f"{intake.num_faults} bad rows:\n{intake.complaints()}"
    else:
        yield "no bad rows"


def _source(key: str, reading: Reading[Problem] | Reading[SeedThought]) -> Iterator[str]:
    yield f"{key}: {reading.where}"
    yield f"  {reading.num_rows} rows read, {len(reading.taken)} used, {len(reading.faults)} bad"
    for kind, count in Counter(fault.kind for fault in reading.faults).most_common():
        yield f"    bad: {count} x {kind}"
    for why, count in reading.left_out.most_common():
        yield f"    left out: {count} {why}"
    if pictures := picture_counts(reading):
        yield "  pictures: " + ", ".join(f"{n} rows with {k}" for k, n in sorted(pictures.items()))
    for note, count in reading.notes.items():
        yield f"    note: {count} {note}"
    sources = Counter(_problem(record).source for record in reading.records)
    if len(sources) > 1:
        yield "  of " + ", ".join(f"{name} {n}" for name, n in sources.most_common(8))
    for number, record in reading.taken[:NUM_FIRST]:
        yield from _record(number, record)


def _record(number: int, record: Problem | SeedThought) -> Iterator[str]:
    problem = _problem(record)
    yield f"  row {number}: {problem.id}"
    if problem.context:
        yield f"    context:  {_short(problem.context)}"
    yield f"    question: {_short(problem.question)}"
    if problem.options:
        yield f"    options:  {_short(' | '.join(problem.options))}"
    yield f"    answer:   {_short(problem.answer)} ({problem.answer_type})"
    for path in problem.images:
        width, height = image_size(path)
        yield f"    image:    {path} ({width}x{height})"
    if isinstance(record, SeedThought):
        yield f"    thought:  {_short(record.thought)}"


def _problem(record: Problem | SeedThought) -> Problem:
    return record.problem if isinstance(record, SeedThought) else record


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 4] + " ..."


def histogram(lengths: Sequence[int]) -> list[str]:
    """Lines of a histogram with equal bins, and the quantiles below it.

    >>> print("\\n".join(line.strip() for line in histogram([10, 12, 12, 25])))
    10 to 11    | ####################                      1
    12 to 13    | ########################################  2
    24 to 25    | ####################                      1
    median 12, 95th percentile 25, longest 25
    """
    if not lengths:
        return ["  none"]
    ordered = sorted(lengths)
    width = max(1, -(-(ordered[-1] - ordered[0] + 1) // NUM_BINS))
    counts = Counter((length - ordered[0]) // width for length in ordered)
    most = max(counts.values())
    lines = []
    for place in sorted(counts):
        low = ordered[0] + place * width
        bar = "#" * max(1, round(BAR * counts[place] / most))
        lines.append(f"  {low:>6} to {low + width - 1:<6}| {bar:<{BAR}}  {counts[place]}")
    median, high = (ordered[int(q * (len(ordered) - 1) + 0.5)] for q in (0.5, 0.95))
    return [*lines, f"  median {median}, 95th percentile {high}, longest {ordered[-1]}"]
