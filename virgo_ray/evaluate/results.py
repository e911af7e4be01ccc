"""The report of an evaluation: all figures, and each problem's outcome for later comparisons.

`Report.as_json()` is what `report.json` holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from virgo_ray.errors import ConfigError
from virgo_ray.evaluate.answers import Answer
from virgo_ray.evaluate.benchmarks import Benchmark
from virgo_ray.evaluate.directory import Protocol, refuse_differences
from virgo_ray.evaluate.measures import (
    AnswerFigures,
    Comparison,
    Outcomes,
    by_group,
    compare,
    measure_answers,
    outcomes,
)
from virgo_ray.evaluate.sampling import SamplingPlan
from virgo_ray.evaluate.targets import Model


@dataclass(frozen=True)
class Baseline:
    """A model that others are compared with; its outcomes by benchmark."""

    label: str
    outcomes: Mapping[str, Outcomes]


@dataclass(frozen=True)
class BenchmarkResult:
    """One model on one benchmark; `difference` is None for the base itself and without one."""

    figures: AnswerFigures
    difference: Comparison | None
    by_category: Mapping[str, AnswerFigures]
    by_difficulty: Mapping[str, AnswerFigures]
    outcomes: Outcomes

    def as_json(self) -> dict[str, object]:
        return {
            **_describe_figures(self.figures),
            "difference": asdict(self.difference) if self.difference else None,
            "by_category": {k: _describe_figures(v) for k, v in self.by_category.items()},
            "by_difficulty": {k: _describe_figures(v) for k, v in self.by_difficulty.items()},
            "outcomes": dict(self.outcomes),
        }


@dataclass(frozen=True)
class ModelResult:
    """One model on all benchmarks, by their names."""

    model: Model
    is_base: bool
    benchmarks: Mapping[str, BenchmarkResult]

    @property
    def baseline(self) -> Baseline:
        return Baseline(self.model.label, {k: v.outcomes for k, v in self.benchmarks.items()})

    def as_json(self) -> dict[str, object]:
        found = {name: result.as_json() for name, result in self.benchmarks.items()}
        return {**asdict(self.model), "is_base": self.is_base, "benchmarks": found}


@dataclass(frozen=True)
class Report:
    """What was asked, how, and how every model answered; the base comes first."""

    protocol: Protocol
    plan: SamplingPlan
    limit: int | None
    benchmarks: Sequence[Benchmark]
    models: Sequence[ModelResult]

    def as_json(self) -> dict[str, object]:
        return {
            "protocol": self.protocol.as_json(),
            "has_greedy": self.plan.has_greedy,
            "num_samples": self.plan.num_samples,
            "limit": self.limit,
            "benchmarks": {b.name: _describe_benchmark(b) for b in self.benchmarks},
            "models": [model.as_json() for model in self.models],
        }


def measure_benchmark(
    benchmark: Benchmark, answers: Sequence[Answer], base: Baseline | None, seed: int
) -> BenchmarkResult:
    """Measure one model's answers to one benchmark, and compare them with the base's."""
    categories = {p.id: benchmark.category(p) for p in benchmark.problems}
    difficulties = {p.id: p.difficulty for p in benchmark.problems}
    found = outcomes(answers)
    theirs = base.outcomes.get(benchmark.name, {}) if base else {}
    return BenchmarkResult(
        figures=measure_answers(answers, seed),
        difference=compare(found, theirs, base.label, seed) if base else None,
        by_category=by_group(answers, categories, seed),
        by_difficulty=by_group(answers, difficulties, seed),
        outcomes=found,
    )


def read_baseline(path: str, protocol: Protocol, has_greedy: bool) -> Baseline:
    """The base of an earlier report, or its only model, as it answered.

    Raises:
        ConfigError: no report, not one model to compare with, or it was asked otherwise.
    """
    try:
        report = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        models = report["models"]
        chosen = [m for m in models if m["is_base"]] or models
        found = [
            Baseline(m["label"], {name: b["outcomes"] for name, b in m["benchmarks"].items()})
            for m in chosen
        ]
        before = {**report["protocol"], "has_greedy": report["has_greedy"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--compare {path!r} cannot be read ({error!r}); expected the report.json of an "
            "earlier evaluation"
        ) from error
    now = json.loads(json.dumps({**protocol.as_json(), "has_greedy": has_greedy}))
    refuse_differences(before, now, path)
    if len(found) != 1:
        labels = ", ".join(baseline.label for baseline in found)
        raise ConfigError(f"--compare {path!r} has no base and several models: {labels}")
    return found[0]


def _describe_figures(figures: AnswerFigures) -> dict[str, object]:
    """The figures of samples stand beside the others, where there are any."""
    found = asdict(figures)
    of_samples = found.pop("samples") or {}
    return {**found, **of_samples}


def _describe_benchmark(benchmark: Benchmark) -> dict[str, object]:
    """What was asked, and what was not."""
    parts = benchmark.source.parts or (benchmark.source,)
    return {
        "sources": [{"reader": p.reader, "path": p.path, "split": p.split} for p in parts],
        "num_problems": len(benchmark.problems),
        "num_in_quarantine": benchmark.num_not_asked,
        "rows": [asdict(row) for row in benchmark.rows],
    }
