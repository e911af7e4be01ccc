"""What is asked, sampled and judged, and what of it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from virgo_ray.records.tokens import LogProbs, TokenIds

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
    """Ask for sample `sample_index` of a problem; `seed` makes it the same on every worker.

    `is_greedy`: asked at temperature 0, whatever the call's sampling says. So one call may ask a
    problem greedily and for samples: `identity` tells its requests apart, `key` does not.
    """

    problem: Problem
    sample_index: int
    seed: int
    is_greedy: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return (self.problem.id, self.sample_index)

    @property
    def identity(self) -> tuple[str, int, bool]:
        return (*self.key, self.is_greedy)


@dataclass(frozen=True)
class Rollout:
    """One sampled long thought.

    `token_ids` are the ids as sampled (the end token included), never a re-tokenised text, except
    where a teacher behind an endpoint gave only text. What a teacher wrote has TEACHER_VERSION, and
    its name in `sampling["teacher"]`.
    `finish_reason` is "stop", "length" or "repetition"; `seconds` is from submission to last token.
    `sampling` is what was really used, `is_greedy` what the request said; the replay buffer does
    not keep the latter.
    `logprobs` are those of `token_ids` under the very distribution that they were drawn from, with
    its temperature and bans, in nats; () where nobody asked, of greedy rollouts and of teachers.
    They are kept as LogProbs.
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
    is_greedy: bool = field(default=False, compare=False)
    logprobs: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "logprobs", LogProbs(self.logprobs))

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
    """A stored rollout as it comes out of the replay buffer, ready to become an Example.

    `logprobs` are those of `Rollout`; `temperature` is what it was sampled at, 0 for greedy.
    """

    problem: Problem
    round: int
    sample_index: int
    text: str
    token_ids: Sequence[int]  # kept as TokenIds
    weights_version: int
    logprobs: Sequence[float] = ()  # kept as LogProbs
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))
        object.__setattr__(self, "logprobs", LogProbs(self.logprobs))


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
class Member:
    """A judged sample of a group, which is all samples of one problem in one round: no text.

    `temperature` is above 0: greedy rollouts belong to no group. `weights_version` is
    TEACHER_VERSION for what a teacher wrote. `has_logprobs` where the sampler's log-probabilities
    of its tokens are stored. `is_plain` where tokens were drawn with the model's own probabilities
    at `temperature`: no top_p, top_k or penalty. `has_form` unless its tags are known to be not
    whole, or to hold no thought.
    """

    round: int
    problem_id: str
    sample_index: int
    status: Status
    finish_reason: str
    num_tokens: int
    weights_version: int
    guess_chance: float = 0.0
    is_doubted: bool = False
    temperature: float = 1.0
    has_logprobs: bool = False
    is_plain: bool = True
    has_form: bool = True

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.round, self.problem_id, self.sample_index)


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


@dataclass(frozen=True)
class SeedThought:
    """A textual long thought (the paper's D_T): a problem without images and what to imitate."""

    problem: Problem
    thought: str
