"""`report.md`: the figures as Markdown tables. Shares and accuracies are in percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMNS = ("model", "pass@1", "95 % interval")
AFTER = ("thought tokens", "95th percentile", "truncated", "not judged")


def markdown(report: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    yield "# Evaluation\n"
    yield _how(report)
    for name, benchmark in report["benchmarks"].items():
        models = [(m["label"], m["benchmarks"][name]) for m in report["models"]]
        yield f"\n## {name}\n"
        yield _what(benchmark, report["limit"]) + "\n"
        yield from _summary(models)
        for key, title in (("by_category", "category"), ("by_difficulty", "difficulty")):
            yield from _groups(models, key, title)


def _how(report: Mapping[str, Any]) -> str:
    sampling = report["protocol"]["sampling"]
    ways = ["greedy"] if report["has_greedy"] else []
    if report["num_samples"]:
        ways.append(
            f"{report['num_samples']} samples at temperature {sampling['temperature']:g}, "
            f"top_p {sampling['top_p']:g}"
        )
    judge = report["protocol"]["judge"]
    decided = f"rules, then the judge {judge['model']}" if judge else "rules"
    first = "pass@1 is greedy" if report["has_greedy"] else "pass@1 is the average over samples"
    return (
        f"Asked: {' and '.join(ways)}; at most {sampling['max_tokens']} tokens a response, "
        f"{report['protocol']['model']['max_length']} with the prompt. Decided by: {decided}. "
        f"{first}; intervals are over problems."
    )


def _what(benchmark: Mapping[str, Any], limit: int | None) -> str:
    sources = ", ".join(
        f"{s['reader']} {s['path'] or ''}".strip() + f" ({s['split']})"
        for s in benchmark["sources"]
    )
    bad = benchmark["num_in_quarantine"]
    left_out = sum(sum(row["left_out"].values()) for row in benchmark["rows"])
    notes = [f"{bad} bad rows in quarantine, not asked"] if bad else []
    notes += [f"{left_out} rows left out by the benchmark's own rules"] if left_out else []
    notes += [f"at most {limit} of each source, chosen by the seed"] if limit else []
    return f"{cell(sources)}: {benchmark['num_problems']} problems" + "".join(
        f"; {note}" for note in notes
    )


def _summary(models: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    first = models[0][1]
    ks = [k for k in first.get("pass_at", ()) if int(k) > 1]
    num = first.get("num_samples", 0)
    has_judge = any(found["decided_by"].get("judge") for _, found in models)
    has_difference = any(found["difference"] for _, found in models)
    heads = [*COLUMNS, *(f"pass@{k}" for k in ks), *([f"maj@{num}"] if num > 1 else []), *AFTER]
    heads += ["by rules alone"] if has_judge else []
    heads += ["difference", "95 % interval", "p"] if has_difference else []
    rows = []
    for label, found in models:
        one = found["pass_at_1"]
        row = [label, percent(one["value"]), interval(one)]
        row += [percent(found["pass_at"][k]) for k in ks]
        row += [percent(found["maj_at_n"])] if num > 1 else []
        row += [f"{found['mean_thought_tokens']:.0f}", f"{found['p95_thought_tokens']:.0f}"]
        row += [percent(found["truncated_share"]), percent(found["not_judged_share"])]
        row += [percent(found["rules_pass_at_1"])] if has_judge else []
        row += _difference(found["difference"]) if has_difference else []
        rows.append(row)
    yield from table(heads, rows)
    paired = next((found["difference"] for _, found in models if found["difference"]), None)
    if paired:
        to, num = cell(paired["to"]), paired["num_problems"]
        yield (
            f"\nDifferences are to {to}, over the {num} problems that both answered; "
            f"p: {paired['test']}, two-sided."
        )
    yield f"\nA blind guess is right in {percent(first['guess_chance'])} %."


def _difference(paired: Mapping[str, Any] | None) -> list[str]:
    if not paired:
        return ["", "", ""]
    p = paired["p_value"]
    bounds = f"{100 * paired['low']:+.1f} to {100 * paired['high']:+.1f}"
    return [f"{100 * paired['value']:+.1f}", bounds, "under 0.001" if p < 0.001 else f"{p:.3f}"]


def _groups(models: Sequence[tuple[str, Mapping[str, Any]]], key: str, title: str) -> Iterator[str]:
    names = sorted({name for _, found in models for name in found[key]})
    if not names:
        return
    rows = []
    for name in names:
        groups = [found[key].get(name) for _, found in models]
        num = next(g["num_problems"] for g in groups if g)
        rows.append([name, str(num), *(_group(g) for g in groups)])
    yield f"\npass@1 by {title}:\n"
    yield from table([title, "problems", *(label for label, _ in models)], rows)


def _group(group: Mapping[str, Any] | None) -> str:
    one = group and group["pass_at_1"]
    return f"{percent(one['value'])} ({interval(one)})" if one else ""


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


def interval(estimate: Mapping[str, Any]) -> str:
    return f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}"
