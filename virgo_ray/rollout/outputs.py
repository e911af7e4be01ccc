"""What is taken of vLLM's outputs, each checked: nothing that a rollout carries is a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from virgo_ray.errors import RolloutError
from virgo_ray.records import LogProbs, Problem

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput

FINISH_REASONS = ("stop", "length", "repetition")


def sampled_logprobs(completion: CompletionOutput, problem: Problem) -> LogProbs:
    """The log-probability (nats) of every sampled token; asked as `FlatLogprobs`, sampled only.

    Raises:
        RolloutError: there is not one for each token, or one is not finite: a probability of 0
            cannot have been drawn, and a ratio over it would ruin a fit.
    """
    flat: Any = completion.logprobs
    found = LogProbs(() if flat is None else flat.logprobs)
    if len(found) != len(completion.token_ids) or flat.token_ids != list(completion.token_ids):
        raise RolloutError(
            f"problem {problem.id!r}: vLLM returned {len(found)} log-probabilities for "
            f"{len(completion.token_ids)} sampled tokens, expected one of each; use the version "
            "of vLLM that virgo_ray names"
        )
    for place, value in enumerate(found):
        if not math.isfinite(value):
            raise RolloutError(
                f"problem {problem.id!r}: token {completion.token_ids[place]}, the {place + 1}. "
                f"sampled one, has the log-probability {value}, expected a finite number: are "
                "the weights that the engine serves finite?"
            )
    return found


def logprob_of(row: Mapping[int, Any] | None, token: int) -> float:
    """
    Raises:
        RolloutError: it is not there.
    """
    if row is None or token not in row:
        raise RolloutError(f"vLLM returned no log-probability for token {token}; expected one each")
    return float(row[token].logprob)


def finish_reason(reason: str | None, problem: Problem) -> str:
    """
    Raises:
        RolloutError: it is none of FINISH_REASONS.
    """
    if reason not in FINISH_REASONS:
        raise RolloutError(
            f"problem {problem.id!r} ended with {reason!r}, expected one of {FINISH_REASONS}"
        )
    return reason
