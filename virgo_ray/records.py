"""The nouns of the system, as frozen records.

One word per idea: every layer exchanges these and nothing else. They hold plain values (paths
instead of images, token ids instead of tensors), so they pickle cheaply, compare by value, and can
be written to the replay buffer as they are. Nothing here knows how a record is made or judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

BASE = "base"  # what the model is called before any training, where a round would be named

# In the place of a weights version, which counts from 0 (the base): not this run's weights.
TEACHER_VERSION = -1


class Status(StrEnum):
    """What the verifier said of a rollout. "Could not judge" (TIMEOUT, ERROR) is never "wrong"."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    REPETITIVE = "repetitive"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_failure_to_judge(self) -> bool:
        """True where the verifier, not the model, is to blame."""
        return self in (Status.TIMEOUT, Status.ERROR)


class AnswerType(StrEnum):
    """How a gold answer is compared with a prediction; AUTO infers it from the gold answer."""

    AUTO = "auto"
    NUMBER = "number"
    EXPRESSION = "expression"
    EQUATION = "equation"
    INTERVAL = "interval"
    SET = "set"
    TUPLE = "tuple"
    MATRIX = "matrix"
    CHOICE = "choice"
    YES_NO = "yes_no"
    TEXT = "text"
    LIST = "list"
    PARTS = "parts"


@dataclass(frozen=True)
class Problem:
    """A question with a checkable answer.

    `context` is text that stands where an image would stand (empty for most problems), `images` are
    paths of image files on a file system every worker can read. `difficulty` is what a benchmark
    calls it, for reports of evaluations; the replay buffer does not keep it.
    """

    id: str
    question: str
    answer: str
    images: tuple[str, ...] = ()
    source: str = "unknown"
    answer_type: AnswerType = AnswerType.AUTO
    options: tuple[str, ...] = ()
    context: str = ""
    difficulty: str = field(default="", compare=False)


@dataclass(frozen=True)
class Request:
    """Ask for sample `sample_index` of a problem; `seed` makes it the same on every worker."""

    problem: Problem
    sample_index: int
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return (self.problem.id, self.sample_index)


@dataclass(frozen=True)
class Rollout:
    """One sampled long thought.

    `token_ids` are the ids as sampled (the end token included), never a re-tokenised text, except
    where a teacher behind an endpoint gave only text. What a teacher wrote has TEACHER_VERSION, and
    its name in `sampling["teacher"]`.
    `finish_reason` is "stop", "length" or "repetition"; `seconds` is from submission to last token.
    """

    problem: Problem
    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    weights_version: int
    sampling: Mapping[str, float | int | str] = field(default_factory=dict)
    seconds: float = 0.0
    worker: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return (self.problem.id, self.sample_index)


class Opinion(StrEnum):
    """What a second opinion says of a CORRECT rollout; UNKNOWN where it cannot tell."""

    AGREES = "agrees"
    DOUBTS = "doubts"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SecondOpinion:
    """An opinion and its reason: the first wrong step, the other conclusion, why it is unknown."""

    opinion: Opinion
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the verifier said: status, extracted answer, the rule that found it, time taken.

    `opinions` are the second opinions by name ("steps", "consistency", "judge"), where asked for.
    """

    status: Status
    answer: str = ""
    rule: str = ""
    answer_type: AnswerType = AnswerType.AUTO
    verifier_version: str = ""
    milliseconds: float = 0.0
    reason: str = ""
    guess_chance: float = 0.0
    opinions: Mapping[str, SecondOpinion] = field(default_factory=dict)

    @property
    def is_correct(self) -> bool:
        return self.status is Status.CORRECT

    @property
    def is_doubted(self) -> bool:
        """Whether at least one second opinion doubts it; unknown ones do not count."""
        return any(second.opinion is Opinion.DOUBTS for second in self.opinions.values())


@dataclass(frozen=True)
class Judged:
    """A rollout together with its verdict: what the replay buffer stores."""

    rollout: Rollout
    verdict: Verdict


@dataclass(frozen=True)
class Trace:
    """An accepted rollout as it comes out of the replay buffer, ready to become an Example."""

    problem: Problem
    round: int
    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    weights_version: int


@dataclass(frozen=True)
class Outcome:
    """A judged rollout without its text: what counting needs."""

    problem_id: str
    sample_index: int
    source: str
    status: Status
    num_tokens: int
    opinions: Mapping[str, Opinion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A CORRECT rollout as a choice between thoughts sees it: numbers and signatures, no text.

    `num_correct` of `num_judged` samples of its problem in its round were correct (TIMEOUT and
    ERROR are not judged). `fingerprint` is equal for thoughts that differ only in case and spaces.
    `has_thought` where a finished thought stands between its tags. `signature` is that of
    `selection.measures`. `is_doubted` where a second opinion doubts it, `is_blank_solved` where the
    problem was also solved with its pictures blanked.
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
    has_thought: bool = True
    is_doubted: bool = False
    signature: bytes = b""
    repetition: float = 0.0
    is_blank_solved: bool = False

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.round, self.problem_id, self.sample_index)

    @property
    def pass_rate(self) -> float:
        return self.num_correct / self.num_judged


@dataclass(frozen=True)
class SeedThought:
    """A textual long thought (the paper's D_T): a problem without images and what to imitate."""

    problem: Problem
    thought: str


@dataclass(frozen=True)
class Example:
    """A training item.

    `prompt_ids` hold one image placeholder id per image (un-expanded); the trainer's processor
    expands them. The loss is taken on `target_ids` only. `weight` scales the item's loss.
    """

    id: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    images: tuple[str, ...] = ()
    num_tokens: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The packed order of one fit: `steps[step][rank]` is that rank's tuple of micro-batches.

    Every rank has the same number of micro-batches in every step, and every micro-batch at least
    one example, so that no collective ever waits for a rank that has nothing to do.
    """

    examples: tuple[Example, ...]
    steps: tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]
    scheduled_steps: int | None = None  # the learning rate is planned for; None: as many as `steps`


@dataclass(frozen=True)
class Weights:
    """A published model: a version and a directory. Immutable once published."""

    version: int
    path: str


@dataclass(frozen=True)
class FitReport:
    """What a fit did, for the ledger and the metrics."""

    weights: Weights
    num_steps: int
    num_examples: int
    num_tokens: int  # read by the model: prompts with images expanded, and targets
    num_target_tokens: int  # of them with a loss
    first_loss: float
    last_loss: float
    seconds: float
    resumed_from_step: int = 0


@dataclass(frozen=True)
class PushReport:
    """Parity after a push: largest |log-prob difference| between the trainer and any worker."""

    version: int
    max_diff_text: float
    max_diff_image: float
    seconds: float


# -- a round ---------------------------------------------------------------------------------------


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
    picture; None where there were none. Example: `Tally(asked=8, accepted=2, accept_rate=0.25)`.
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

    `seconds` are those of the start that finished it.
    """

    perception_pass_at_1: float | None = None
    num_perception: int = 0
    text_pass_at_1: float | None = None
    num_text: int = 0
    per_source: Mapping[str, Figures] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A gate that a round did not pass: `value` lies outside `bound`.

    `bound` is the limit with the forgiveness of noise (`noise`) already in it; `reference` is the
    figure of round `reference_round`, None where the limit is a fixed one.
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
        beside = [] if self.reference is None else [f"{self.reference:.4g} in {where}"]
        beside += [f"noise {self.noise:.3g}"] if self.noise else []
        return (
            f"gates.{self.gate}={self.limit:g}: {self.figure} is {self.value:.4g}, expected "
            f"{side} {self.bound:.4g}" + (f" ({', '.join(beside)})" if beside else "")
        )


@dataclass(frozen=True)
class Round:
    """A round as far as it is committed; complete once it has an evaluation.

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
        """The evaluation of a complete round."""
        if self.evaluation is None:
            raise ValueError(f"round {self.label} is not evaluated yet")
        return self.evaluation
