"""The nouns of the system, as frozen records.

One word per idea: every layer exchanges these and nothing else. They hold plain values (paths
instead of images, token ids instead of tensors), so they pickle cheaply, compare by value, and can
be written to the replay buffer as they are. Nothing here knows how a record is made or judged.
"""

from virgo_ray.records.rounds import BASE, Evaluation, Failure, Figures, Round, SourceTally, Tally
from virgo_ray.records.sampling import (
    TEACHER_VERSION,
    AnswerType,
    Candidate,
    Judged,
    Member,
    Opinion,
    Outcome,
    Problem,
    Request,
    Rollout,
    SecondOpinion,
    SeedThought,
    Status,
    Trace,
    Verdict,
)
from virgo_ray.records.tokens import LogProbs, TokenIds
from virgo_ray.records.training import (
    Example,
    FitReport,
    Kind,
    Plan,
    Portion,
    PushReport,
    Step,
    Weights,
    sequence_length,
)

__all__ = [
    "BASE", "TEACHER_VERSION", "AnswerType", "Candidate", "Evaluation", "Example", "Failure",
    "Figures", "FitReport", "Judged", "Kind", "LogProbs", "Member", "Opinion", "Outcome", "Plan",
    "Portion", "Problem", "PushReport", "Request", "Rollout", "Round", "SecondOpinion",
    "SeedThought", "SourceTally", "Status", "Step", "Tally", "TokenIds", "Trace", "Verdict",
    "Weights", "sequence_length",
]  # fmt: skip
