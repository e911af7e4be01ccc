"""`report.md`: the figures as Markdown tables. Shares and accuracies are in percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from virgo_ray.evaluate.answers import JUDGE
from virgo_ray.evaluate.benchmarks import Benchmark
from virgo_ray.evaluate.measures import AnswerFigures, Comparison
from virgo_ray.evaluate.results import BenchmarkResult, Report
from virgo_ray.stats.estimates import Estimate

Results = Sequence[tuple[str, BenchmarkResult]]  # of one benchmark, by the label of the model

COLUMNS = ("model", "pass@1", "95 % interval")
AFTER = ("thought tokens", "95th percentile", "truncated", "not judged")


def markdown(report: Report) -> str:
    """The whole page."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    yield "# Evaluation\n"
    yield _how(report)
    for benchmark in report.benchmarks:
        results = [(m.model.label, m.benchmarks[benchmark.name]) for m in report.models]
        yield f"\n## {benchmark.name}\n"
        yield _what(benchmark, report.limit) + "\n"
        yield from _summary(results)
        yield from _groups([(label, r.by_category) for label, r in results], "category")
        yield from _groups([(label, r.by_difficulty) for label, r in results], "difficulty")


def _how(report: Report) -> str:
    plan, sampling = report.plan, report.plan.sampling
    ways = ["greedy"] if plan.has_greedy else []
    if plan.num_samples:
        ways.append(
            f"{plan.num_samples} samples at temperature {sampling.temperature:g}, "
            f"top_p {sampling.top_p:g}"
        )
    judge = report.protocol.judge
    decided = f"rules, then the judge {judge.model}" if judge else "rules"
    first = "pass@1 is greedy" if plan.has_greedy else "pass@1 is the average over samples"
    return (
        f"Asked: {' and '.join(ways)}; at most {sampling.max_tokens} tokens a response, "
        f"{report.protocol.cfg.model.max_length} with the prompt. Decided by: {decided}. "
        f"{first}; intervals are over problems."
    )


def _what(benchmark: Benchmark, limit: int | None) -> str:
    sources = ", ".join(
        f"{s.reader} {s.path or ''}".strip() + f" ({s.split})"
        for s in benchmark.source.parts or (benchmark.source,)
    )
    bad = benchmark.num_not_asked
    left_out = sum(sum(row.left_out.values()) for row in benchmark.rows)
    notes = [f"{bad} bad rows in quarantine, not asked"] if bad else []
    notes += [f"{left_out} rows left out by the benchmark's own rules"] if left_out else []
    notes += [f"at most {limit} of each source, chosen by the seed"] if limit else []
    return f"{cell(sources)}: {len(benchmark.problems)} problems" + "".join(
        f"; {note}" for note in notes
    )


def _summary(results: Results) -> Iterator[str]:
    first = results[0][1].figures
    ks = [k for k in first.samples.pass_at if int(k) > 1] if first.samples else []
    num = first.samples.num_samples if first.samples else 0
    has_judge = any(found.figures.decided_by.get(JUDGE) for _, found in results)
    paired = next((found.difference for _, found in results if found.difference), None)
    heads = [*COLUMNS, *(f"pass@{k}" for k in ks), *([f"maj@{num}"] if num > 1 else []), *AFTER]
    heads += ["by rules alone"] if has_judge else []
    heads += ["difference", "95 % interval", "p"] if paired else []
    rows = []
    for label, result in results:
        found = result.figures
        row = [label, percent(found.pass_at_1.value), interval(found.pass_at_1)]
        if found.samples:
            row += [percent(found.samples.pass_at[k]) for k in ks]
            row += [percent(found.samples.maj_at_n)] if num > 1 else []
        row += [f"{found.mean_thought_tokens:.0f}", f"{found.p95_thought_tokens:.0f}"]
        row += [percent(found.truncated_share), percent(found.not_judged_share)]
        row += [percent(found.rules_pass_at_1)] if has_judge else []
        row += _difference(result.difference) if paired else []
        rows.append(row)
    yield from table(heads, rows)
    if paired:
        yield (
            f"\nDifferences are to {cell(paired.to)}, over the {paired.num_problems} problems that "
            f"both answered; p: {paired.test}, two-sided."
        )
    yield f"\nA blind guess is right in {percent(first.guess_chance)} %."


def _difference(paired: Comparison | None) -> list[str]:
    if not paired:
        return ["", "", ""]
    p = paired.p_value
    bounds = f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
    return [f"{100 * paired.value:+.1f}", bounds, "under 0.001" if p < 0.001 else f"{p:.3f}"]


def _groups(models: Sequence[tuple[str, Mapping[str, AnswerFigures]]], title: str) -> Iterator[str]:
    names = sorted({name for _, groups in models for name in groups})
    if not names:
        return
    rows = []
    for name in names:
        own = [groups.get(name) for _, groups in models]
        num = next(group.num_problems for group in own if group)
        rows.append([name, str(num), *map(_group, own)])
    yield f"\npass@1 by {title}:\n"
    yield from table([title, "problems", *(label for label, _ in models)], rows)


def _group(group: AnswerFigures | None) -> str:
    return f"{percent(group.pass_at_1.value)} ({interval(group.pass_at_1)})" if group else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table: the first column is text, the others are numbers."""
    yield "| " + " | ".join(map(cell, heads)) + " |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(map(cell, row)) + " |"


def cell(text: str) -> str:
    """Text of a file or a benchmark must not make columns, lines or elements of its own.

    >>> cell("a|b")
    'a\\\\|b'
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
