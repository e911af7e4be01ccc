"""The LLM judge as a fallback: asked where the rules could not credit a response.

Rules first: what they call CORRECT stays so, and a cut-off or looping response has no answer to
judge. A wrong letter of a choice is wrong whatever a judge thinks. Everything else (an answer that
compares unequal, none found, the verifier itself failed) is put to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from virgo_ray.config import FORMATS, Format
from virgo_ray.model.prompts import option_lines
from virgo_ray.ports import Verifiers
from virgo_ray.records import AnswerType, Judged, Rollout, Status, Verdict
from virgo_ray.verify.answers.choice import letter_of
from virgo_ray.verify.answers.extract import solution_part
from virgo_ray.verify.asking import split, stream_opinions
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.llm_judge import LlmJudge

OPEN = (Status.WRONG, Status.NO_ANSWER, Status.TIMEOUT, Status.ERROR)
LAST_CHARS = 1000  # of a solution without an extracted answer, shown to the judge


class VerifiersWithFallback:
    """Implements `ports.Verifiers` around another one; the judge's opinion is named "judge"."""

    def __init__(
        self,
        verifiers: Verifiers,
        judge: LlmJudge,
        num_parallel: int,
        formats: Sequence[Format] = FORMATS,
    ) -> None:
        self._verifiers = verifiers
        self._judge = judge
        self._num_parallel = num_parallel
        self._formats = formats

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        pairs = split(self._verifiers.judge(rollouts))
        for pair in stream_opinions(
            self._judge, self._num_parallel, pairs, _item, is_open, self._answer
        ):
            yield Judged(*pair) if pair else None

    def _answer(self, rollout: Rollout, verdict: Verdict) -> str:
        """What was extracted, or how the solution ends."""
        part = solution_part(rollout.text, require_end_tag=False, formats=self._formats)
        return verdict.answer or part.text.strip()[-LAST_CHARS:]


def is_open(verdict: Verdict) -> bool:
    """Whether the judge is asked.

    >>> is_open(Verdict(Status.WRONG, "two")), is_open(Verdict(Status.CORRECT, "2"))
    (True, False)
    """
    is_letter = verdict.answer_type is AnswerType.CHOICE and letter_of(verdict.answer) is not None
    is_wrong_letter = verdict.status is Status.WRONG and is_letter
    return verdict.status in OPEN and not is_wrong_letter


def _item(rollout: Rollout) -> Item:
    """With the options, without which a letter says nothing."""
    problem = rollout.problem
    lines = [problem.context, problem.question, *option_lines(problem.options)]
    question = "\n".join(line for line in lines if line)
    return replace(Item.of(problem, rollout), question=question)
