"""`report.json`: all figures of an evaluation, and each problem's outcome for later comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virgo_ray.errors import ConfigError
from virgo_ray.evaluate.answers import Answer
from virgo_ray.evaluate.benchmarks import Benchmark
from virgo_ray.evaluate.directory import refuse_differences
from virgo_ray.evaluate.measures import by_group, compare, measure_answers, outcomes
from virgo_ray.evaluate.sampling import SamplingPlan

Baseline = tuple[str, Mapping[str, Mapping[str, float]]]  # label, {benchmark: {problem id: value}}


def results_of(
    benchmark: Benchmark, answers: Sequence[Answer], base: Baseline | None, seed: int
) -> dict[str, Any]:
    """One model on one benchmark; `difference` is None for the base itself and without one."""
    categories = {p.id: benchmark.category(p) for p in benchmark.problems}
    difficulties = {p.id: p.difficulty for p in benchmark.problems}
    found = outcomes(answers)
    theirs = base[1].get(benchmark.name, {}) if base else {}
    paired = compare(found, theirs, seed)
    return {
        **measure_answers(answers, seed),
        "difference": {"to": base[0], **paired} if base and paired else None,
        "by_category": by_group(answers, categories, seed),
        "by_difficulty": by_group(answers, difficulties, seed),
        "outcomes": found,
    }


def describe_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    """What was asked, and what was not."""
    parts = benchmark.source.parts or (benchmark.source,)
    return {
        "sources": [{"reader": p.reader, "path": p.path, "split": p.split} for p in parts],
        "num_problems": len(benchmark.problems),
        "num_in_quarantine": benchmark.num_not_asked,
        "rows": [dict(row) for row in benchmark.rows],
    }


def whole_report(
    protocol: Mapping[str, Any],
    plan: SamplingPlan,
    limit: int | None,
    benchmarks: Sequence[Benchmark],
    models: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """`models` are `{"label", "path", "is_base", "benchmarks": {name: results_of(...)}}`."""
    return {
        "protocol": dict(protocol),
        "has_greedy": plan.has_greedy,
        "num_samples": plan.num_samples,
        "limit": limit,
        "benchmarks": {b.name: describe_benchmark(b) for b in benchmarks},
        "models": [dict(model) for model in models],
    }


def earlier_base(path: str, protocol: Mapping[str, Any], has_greedy: bool) -> Baseline:
    """The base of an earlier report, or its only model, as it answered.

    Raises:
        ConfigError: no report, not one model to compare with, or it was asked otherwise.
    """
    try:
        report = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        models = report["models"]
        chosen = [m for m in models if m["is_base"]] or models
        found = [(m["label"], _outcomes(m)) for m in chosen]
        before = {**report["protocol"], "has_greedy": report["has_greedy"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--compare {path!r} cannot be read ({error!r}); expected the report.json of an "
            "earlier evaluation"
        ) from error
    now = json.loads(json.dumps({**protocol, "has_greedy": has_greedy}))
    refuse_differences(before, now, path)
    if len(found) != 1:
        labels = ", ".join(label for label, _ in found)
        raise ConfigError(f"--compare {path!r} has no base and several models: {labels}")
    return found[0]


def baseline(model: Mapping[str, Any]) -> Baseline:
    """A model of this report as what others are compared with."""
    return model["label"], _outcomes(model)


def _outcomes(model: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {name: found["outcomes"] for name, found in model["benchmarks"].items()}
