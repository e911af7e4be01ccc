"""Measures a model on held-out problems, through the same ports as the exploration.

pass@1 is greedy; pass@k (unbiased estimator, Chen et al. 2021, arXiv 2107.03374) and maj@k use k
samples. With `blank_image` every picture is also replaced by a white one of its size: whatever is
still solved was guessed. With `permute_options` choices are asked again under other orders: who
knows the answer names the same option. TIMEOUT and ERROR count as not solved here and are reported
as their own share, so that a score never hides a broken verifier. Probes are further problems with
a score of their own: what is seen (`perception`), what is known without pictures (`text`). This
module knows no engine.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virgo_ray.config import FORMATS, PROBES, EvaluateConfig, Format
from virgo_ray.data.blank import BLANK, blanked
from virgo_ray.diversity import distinct_share
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Judged, Problem, Request, Status
from virgo_ray.tally import majority_is_correct, pass_at_k
from virgo_ray.verify.choice import chosen_option, permuted


class Evaluator:
    """Evaluates whatever weights the rollout workers serve.

    Example: `Evaluator(cfg.evaluate, problems, run_dir / "blank", seed).run(rollouts, verifiers)`
    gives `{"pass_at_1": 0.62, "pass_at_k": 0.81, ..., "per_source": {"tiny/sum": {...}}}`.
    """

    def __init__(
        self,
        cfg: EvaluateConfig,
        problems: Sequence[Problem],
        blank_dir: Path,
        seed: int,
        formats: Sequence[Format] = FORMATS,
        probes: Mapping[str, Sequence[Problem]] | None = None,
    ) -> None:
        self._cfg = cfg
        self._problems = list(problems)
        self._blank_dir = blank_dir
        self._seed = seed
        self._formats = formats
        named = (probes or {}).items()
        self._probes = [replace(p, id=f"{p.id}#{name}") for name, own in named for p in own]

    def run(self, rollouts: Rollouts, verifiers: Verifiers) -> dict[str, Any]:
        started = time.monotonic()
        greedy = self._cfg.sampling.model_copy(update={"temperature": 0.0})
        others = [*self._blanked(), *self._permuted(), *self._probes]
        once = [Request(p, 0, self._request_seed(p, 0)) for p in self._problems + others]
        many = [
            Request(p, i, self._request_seed(p, i))
            for p in self._problems
            for i in range(self._cfg.k)
        ]
        first = list(verifiers.judge(rollouts.sample(once, greedy)))
        sampled = list(verifiers.judge(rollouts.sample(many, self._cfg.sampling)))
        return {**self._measure(first, sampled), "seconds": time.monotonic() - started}

    def _measure(self, first: Sequence[Judged], sampled: Sequence[Judged]) -> dict[str, Any]:
        asked = {p.id for p in self._problems}
        probed = {p.id for p in self._probes}
        of_probes = [j for j in first if j.rollout.problem.id in probed]
        others = [j for j in first if j.rollout.problem.id not in asked | probed]
        answers = Answers(
            greedy=[j for j in first if j.rollout.problem.id in asked],
            sampled=sampled,
            blank=[j for j in others if j.rollout.problem.id.endswith(BLANK)],
            permuted=[j for j in others if not j.rollout.problem.id.endswith(BLANK)],
        )
        sources = sorted({p.source for p in self._problems})
        per_source = {s: measure(answers.of(s), self._cfg.k, self._formats) for s in sources}
        return {
            **measure(answers, self._cfg.k, self._formats),
            **probe_figures(of_probes),
            "per_source": per_source,
        }

    def _permuted(self) -> list[Problem]:
        seeds = range(1, self._cfg.permute_options + 1)
        again = [(p, permuted(p, seed)) for p in self._problems for seed in seeds]
        return [other for p, other in again if other is not p]

    def _blanked(self) -> list[Problem]:
        if not self._cfg.blank_image:
            return []
        return [blanked(p, self._blank_dir) for p in self._problems if p.images]

    def _request_seed(self, problem: Problem, index: int) -> int:
        digest = hashlib.sha256(f"{self._seed}/evaluate/{problem.id}/{index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Answers:
    """Judged rollouts by how they were asked: greedily, k samples, without picture, permuted."""

    greedy: Sequence[Judged]
    sampled: Sequence[Judged]
    blank: Sequence[Judged]
    permuted: Sequence[Judged]

    def of(self, source: str) -> Answers:
        kinds = (self.greedy, self.sampled, self.blank, self.permuted)
        return Answers(*([j for j in kind if j.rollout.problem.source == source] for kind in kinds))


def measure(answers: Answers, k: int, formats: Sequence[Format] = FORMATS) -> dict[str, Any]:
    """The figures of one set of problems; shares and accuracies are fractions, None of nothing."""
    greedy, sampled, blank = answers.greedy, answers.sampled, answers.blank
    by_problem: dict[str, list[Judged]] = defaultdict(list)
    for judged in sorted(sampled, key=lambda j: j.rollout.key):  # whatever finished first
        by_problem[judged.rollout.problem.id].append(judged)
    groups = list(by_problem.values())
    failed = [j for j in (*greedy, *sampled) if j.verdict.status.is_failure_to_judge]
    return {
        "num_problems": len(greedy),
        "pass_at_1": _share(j.verdict.is_correct for j in greedy),
        "pass_at_k": _mean([pass_at_k(len(g), _num_correct(g), k) for g in groups]),
        "maj_at_k": _share(majority_is_correct(g) for g in groups),
        "k": k,
        "mean_thought_tokens": _mean([len(j.rollout.token_ids) for j in greedy]),
        "long_format_share": _share(is_long_format(j.rollout.text, formats) for j in greedy),
        "truncated_share": _share(j.verdict.status is Status.TRUNCATED for j in greedy),
        "repetitive_share": _share(j.verdict.status is Status.REPETITIVE for j in greedy),
        "no_answer_share": _share(j.verdict.status is Status.NO_ANSWER for j in greedy),
        "distinct_share": distinct_share([j.rollout.token_ids for j in g] for g in groups),
        "not_judged_share": len(failed) / max(1, len(greedy) + len(sampled)),
        "blank_image_pass_at_1": _share(j.verdict.is_correct for j in blank) if blank else None,
        "num_blank": len(blank),
        "consistent_choice_share": consistent_choice_share(greedy, answers.permuted),
    }


def probe_figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """`{"perception_pass_at_1": 0.9, "num_perception": 100, ...}`; None of a probe not asked."""
    figures: dict[str, Any] = {}
    for name in PROBES:
        own = [j for j in judged if j.rollout.problem.id.endswith(f"#{name}")]
        figures[f"{name}_pass_at_1"] = _share(j.verdict.is_correct for j in own) if own else None
        figures[f"num_{name}"] = len(own)
    return figures


def consistent_choice_share(greedy: Sequence[Judged], again: Sequence[Judged]) -> float | None:
    """Share of the choices asked again of which every order got the same option.

    A guesser that likes one letter names another option under every order. An answer that names no
    option is not consistent.
    """
    options: dict[str, set[str | None]] = defaultdict(set)
    pairs = [(j.rollout.problem.id.rpartition("~p")[0], j) for j in again]
    asked_again = {id for id, _ in pairs}
    pairs += [(j.rollout.problem.id, j) for j in greedy if j.rollout.problem.id in asked_again]
    for id, judged in pairs:
        options[id].add(chosen_option(judged.verdict.answer, judged.rollout.problem.options))
    named = options.values()
    return _share(len(texts) == 1 and None not in texts for texts in named) if named else None


def is_long_format(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """Whether a response holds a finished long thought: both tags of a format, in order."""
    return any(0 <= text.find(f.begin_thought) < text.find(f.end_thought) for f in formats)


def _num_correct(judged: Iterable[Judged]) -> int:
    return sum(j.verdict.is_correct for j in judged)


def _share(flags: Iterable[bool]) -> float:
    return _mean([float(flag) for flag in flags])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
