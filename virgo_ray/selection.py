"""What to ask next, which correct thoughts to learn from, and how much of the seed thoughts to add.

Pure functions of records and a random stream: the same arguments give the same choice in every
process, whatever order the rollouts finished in. Candidates are CORRECT rollouts only, without
their text, so a choice over millions of them fits in memory. Knows no store and no model.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from virgo_ray.config import FORMATS, ExploreConfig, Format, SelectConfig
from virgo_ray.data.rows import round_robin
from virgo_ray.records import Example, Problem
from virgo_ray.verify.extract import solution_part

# A problem that is always solved is still asked now and then: solve rates go stale.
MIN_WEIGHT = 0.05
# A guess counts as likely where a pure guesser would get at least one of n right this often.
LIKELY_GUESS = 0.05
NUM_BINS = 4  # of pass rates, when traces are balanced
REFLECTION = re.compile(
    r"\b(?:wait|hmm+|alternatively|on second thought|double[- ]check(?:ing)?|re-?check(?:ing)?|"
    r"re-?examin(?:e|ing)|re-?consider(?:ing)?|"
    r"(?:check|look|verify|count|read|think) (?:\w+ )?again)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    """A CORRECT rollout, described.

    `num_correct` of `num_judged` samples of its problem in its round were correct (TIMEOUT and
    ERROR are not judged). `fingerprint` is equal for thoughts that differ only in case and spaces.
    `is_doubted` where a second opinion doubts it.
    """

    round: int
    problem_id: str
    sample_index: int
    source: str
    num_tokens: int
    num_correct: int
    num_judged: int
    guess_chance: float = 0.0
    num_reflections: int = 0
    fingerprint: str = ""
    is_complete: bool = True
    is_doubted: bool = False

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.round, self.problem_id, self.sample_index)

    @property
    def pass_rate(self) -> float:
        return self.num_correct / self.num_judged


# -- what to ask -----------------------------------------------------------------------------------


def choose_problems(
    problems: Sequence[Problem],
    solve_rates: Mapping[str, tuple[int, int]],
    cfg: ExploreConfig,
    rng: random.Random,
    solved_by_base: frozenset[str] = frozenset(),
) -> list[Problem]:
    """`cfg.num_problems` problems (or all there are), never one that the base solved greedily.

    `solve_rates` maps problem ids to (correct, judged) so far. With `prefer_unsolved` a problem is
    drawn with a weight of its failure rate: never tried 1, solved 1 of 2 times 1/2, always 1/20.
    """
    open_problems = [p for p in problems if p.id not in solved_by_base]
    num = min(cfg.num_problems, len(open_problems))
    if not cfg.prefer_unsolved:
        return rng.sample(open_problems, num)

    def rank(problem: Problem) -> float:  # weighted draw without replacement, Efraimidis 2006
        return math.log(1.0 - rng.random()) / _weight(*solve_rates.get(problem.id, (0, 0)))

    ranks = [rank(p) for p in open_problems]
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
    return [open_problems[i] for i in order[:num]]


def _weight(num_correct: int, num_judged: int) -> float:
    return max(MIN_WEIGHT, 1.0 - num_correct / num_judged) if num_judged else 1.0


# -- which thoughts to learn from ------------------------------------------------------------------


def select(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """The candidates to learn from under `cfg.policy`, at most `cfg.max_traces`, ordered by key.

    With `cfg.drop_doubted` none that a second opinion doubts; a doubt changes no pass rate.
    """
    trusted = [c for c in candidates if not (cfg.drop_doubted and c.is_doubted)]
    kept = POLICIES[cfg.policy](sorted(trusted, key=lambda c: c.key), cfg, rng)
    if cfg.max_traces is not None:
        kept = balance(kept, cfg.max_traces, rng)
    return sorted(kept, key=lambda c: c.key)


def faithful(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """The paper's recipe: problems solved in at least `min_pass_rate` of the samples (4 of 5), the
    shortest correct thought of each. What the base solves greedily was never asked."""
    easy_enough = [c for c in candidates if c.pass_rate >= cfg.min_pass_rate - 1e-9]
    groups = by_problem(easy_enough)
    return [min(group, key=lambda c: (c.num_tokens, c.key)) for group in groups.values()]


def improved(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Finished thoughts that were hardly guessed, of ordinary length, few and distinct per problem;
    those of the newest model first."""
    sound = [
        c
        for c in candidates
        if c.is_complete
        and c.num_reflections <= cfg.max_reflections
        and c.num_correct >= num_correct_needed(c, cfg.min_correct)
    ]
    kept = []
    for group in by_problem(within_length_band(sound, cfg.length_band)).values():
        rng.shuffle(group)
        newest_first = sorted(group, key=lambda c: -c.round)
        distinct = {c.fingerprint: c for c in reversed(newest_first)}
        kept += [c for c in newest_first if distinct[c.fingerprint] is c][: cfg.max_per_problem]
    return kept


POLICIES: dict[
    str, Callable[[Sequence[Candidate], SelectConfig, random.Random], list[Candidate]]
] = {"faithful": faithful, "improved": improved}


def num_correct_needed(candidate: Candidate, min_correct: int) -> int:
    """How many samples must agree before one is believed.

    One, where guessing is hopeless; `min_correct` where a guesser would get one of n right. Four
    choices and five tries: 76 % (1 - 0.75 ** 5), so two are needed.
    """
    lucky = 1.0 - (1.0 - candidate.guess_chance) ** candidate.num_judged
    return min_correct if lucky > LIKELY_GUESS else 1


def within_length_band(
    candidates: Sequence[Candidate], band: tuple[float, float]
) -> list[Candidate]:
    """Those between two quantiles of thought length of their source, the borders included."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for c in candidates:
        lengths[c.source].append(c.num_tokens)
    bounds = {source: _bounds(sorted(values), band) for source, values in lengths.items()}
    return [c for c in candidates if bounds[c.source][0] <= c.num_tokens <= bounds[c.source][1]]


def _bounds(ordered: Sequence[int], band: tuple[float, float]) -> tuple[int, int]:
    """Rounded outwards, so that a handful of thoughts loses none."""
    last = len(ordered) - 1
    return ordered[math.floor(band[0] * last)], ordered[math.ceil(band[1] * last)]


def balance(candidates: Sequence[Candidate], num: int, rng: random.Random) -> list[Candidate]:
    """At most `num`, in turn over sources and bins of pass rate: rare bins are kept whole, and
    every problem gets a first trace before any gets a second."""
    nth: dict[str, int] = defaultdict(int)
    bins: dict[tuple[str, int], list[tuple[int, Candidate]]] = defaultdict(list)
    for c in rng.sample(candidates, len(candidates)):
        bins[c.source, pass_rate_bin(c.pass_rate)].append((nth[c.problem_id], c))
        nth[c.problem_id] += 1
    ordered = [[c for _, c in sorted(b, key=lambda pair: pair[0])] for _, b in sorted(bins.items())]
    return list(round_robin(ordered))[:num]


def pass_rate_bin(pass_rate: float) -> int:
    """0 to 3, for pass rates up to 1/4, 1/2, 3/4 and 1.

    >>> [pass_rate_bin(r) for r in (0.2, 0.25, 0.26, 1.0)]
    [0, 0, 1, 3]
    """
    return max(0, math.ceil(pass_rate * NUM_BINS - 1e-9) - 1)


def by_problem(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for c in candidates:
        groups[c.problem_id].append(c)
    return groups


# -- what a text is like ---------------------------------------------------------------------------


def fingerprint(text: str) -> str:
    """Equal for texts that differ only in case and white space.

    >>> fingerprint("So 3 + 4.") == fingerprint("so  3 + 4.\\n")
    True
    >>> fingerprint("3 + 4") == fingerprint("3 - 4")
    False
    """
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:16]


def num_reflections(text: str) -> int:
    """How often the thought turns back on itself.

    >>> num_reflections("Wait, 3 + 4 is 7. Let me look again: 3 and 4. Alternatively, count.")
    3
    """
    return len(REFLECTION.findall(text))


def is_complete(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """False for a thought or solution that was opened and never closed."""
    return not solution_part(text, formats=formats).is_truncated


# -- what to train on ------------------------------------------------------------------------------


def mix(
    seed_examples: Sequence[Example],
    trace_examples: Sequence[Example],
    seed_share: float,
    rng: random.Random,
) -> list[Example]:
    """Seed examples and traces; seeds are at most `seed_share` of the whole.

    Without traces (round 0) all seeds are kept. Example: 1,000 seeds, 300 traces, share 0.5: all
    traces and 300 of the seeds, chosen by `rng`.
    """
    if not trace_examples:
        return list(seed_examples)
    num_seeds = len(seed_examples)
    if seed_share < 1.0:
        most = math.floor(seed_share / (1.0 - seed_share) * len(trace_examples) + 1e-9)
        num_seeds = min(num_seeds, most)
    chosen = sorted(rng.sample(range(len(seed_examples)), num_seeds))
    return [*(seed_examples[i] for i in chosen), *trace_examples]
