"""A round, and what it consists of: its tally, its fit, its evaluation, its failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virgo_ray.records.training import FitReport, Weights

BASE = "base"  # what the model is called before any training, where a round would be named


@dataclass(frozen=True)
class SourceTally:
    """Rollouts of one source of problems."""

    asked: int
    accepted: int
    accept_rate: float


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What an exploration came to; shares and rates are fractions.

    `asked` counts rollouts, `accepted` those that are CORRECT, `num_solved` problems with at least
    one of these, `doubted` accepted ones that a second opinion doubts. `new` counts accepted
    thoughts that no earlier round had. `blank_asked` and `blank_solved` count probes without their
    picture; None where there were none. `verifiers` counts rollouts by the version of the verifier,
    where it was not the same throughout. Example: `Tally(asked=8, accepted=2, accept_rate=0.25)`.
    """

    asked: int = 0
    accepted: int = 0
    accept_rate: float = 0.0
    num_problems: int = 0
    num_solved: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    truncated_share: float = 0.0
    repetitive_share: float = 0.0
    not_judged_share: float = 0.0
    doubted: int = 0
    opinions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    num_tokens: int = 0
    mean_thought_tokens: float = 0.0
    mean_accepted_tokens: float = 0.0
    p95_thought_tokens: int = 0
    sources: Mapping[str, SourceTally] = field(default_factory=dict)
    new: int | None = None
    blank_asked: int | None = None
    blank_solved: int | None = None
    verifiers: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How a model answered a set of held-out problems; shares and accuracies are fractions.

    pass@1 and all shares are of greedy answers, `pass_at_k` and `maj_at_k` of `k` samples. None
    stands for what was not measured. Example: `Figures(num_problems=200, pass_at_1=0.62, ...)`.
    """

    num_problems: int = 0
    pass_at_1: float
    pass_at_k: float
    maj_at_k: float
    k: int
    mean_thought_tokens: float
    long_format_share: float
    truncated_share: float
    repetitive_share: float | None = None
    no_answer_share: float | None = None
    distinct_share: float | None = None
    not_judged_share: float
    blank_image_pass_at_1: float | None = None
    num_blank: int = 0
    consistent_choice_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Figures):
    """The figures of all held-out problems, of each source, and of the probes beside them.

    `solved` holds what the accuracies are averages of: by the figure's name one character for each
    problem, in the order of their ids, "1" where it was solved and "0" where not. Rounds that were
    asked the same problems are compared by it, problem by problem. `seconds` are those of the start
    that finished it.
    """

    perception_pass_at_1: float | None = None
    num_perception: int = 0
    text_pass_at_1: float | None = None
    num_text: int = 0
    per_source: Mapping[str, Figures] = field(default_factory=dict)
    solved: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A gate that a round did not pass: `value` lies outside `bound`.

    `bound` is the limit with the forgiveness of noise (`noise`) already in it; `reference` is the
    figure of round `reference_round`, or the average of several ("0, 2"); None where the limit is a
    fixed one.
    """

    gate: str
    figure: str
    value: float
    bound: float
    limit: float
    noise: float
    is_lower_bound: bool
    reference: float | None = None
    reference_round: str | int | None = None

    def __str__(self) -> str:
        """gates.max_pass_at_1_fall=0.05: pass_at_1 is 0, expected at least 0.3441 (0.465 in round
        0, noise 0.0709)."""
        side = "at least" if self.is_lower_bound else "at most"
        where = BASE if self.reference_round == BASE else f"round {self.reference_round}"
        if "," in str(self.reference_round):
            where = f"rounds {self.reference_round} on average"
        beside = [] if self.reference is None else [f"{self.reference:.4g} in {where}"]
        beside += [f"noise {self.noise:.3g}"] if self.noise else []
        return (
            f"gates.{self.gate}={self.limit:g}: {self.figure} is {self.value:.4g}, expected "
            f"{side} {self.bound:.4g}" + (f" ({', '.join(beside)})" if beside else "")
        )


@dataclass(frozen=True)
class Round:
    """A round as far as it is committed; complete once it has an evaluation, where one is due.

    `number` is None for the base model, which was neither explored with nor trained: `tally` and
    `fit` are None then. `weights` are what the round ends with: the base's, where it trained
    nothing. `failures` say why its gates rejected it. `seconds` of an interrupted half are those of
    its last start.

    Example: `Round(0, Weights(1, "run/weights/v0001"), Tally(), fit, evaluation, (), 97.0)`.
    """

    number: int | None
    weights: Weights
    tally: Tally | None = None
    fit: FitReport | None = None
    evaluation: Evaluation | None = None
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0

    @property
    def label(self) -> str | int:
        return BASE if self.number is None else self.number

    @property
    def is_rejected(self) -> bool:
        return bool(self.failures)

    @property
    def measured(self) -> Evaluation:
        """The evaluation of a round that has one."""
        if self.evaluation is None:
            raise ValueError(f"round {self.label} is not evaluated yet")
        return self.evaluation
