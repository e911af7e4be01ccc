"""Second opinions on a verified response: right answer, wrong thought?

Each is a short class with one method, `ask(item, answer) -> SecondOpinion`. They change no verdict:
the caller decides what a doubt costs. The two here read only the text, and work in the verifier's
killable process. The LLM judge, which asks a model, stands in llm_judge.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from virgo_ray.config import FORMATS, Format, VerifyConfig
from virgo_ray.records import AnswerType, Opinion, SecondOpinion
from virgo_ray.verify.answers.clean import clean
from virgo_ray.verify.answers.equal import equal
from virgo_ray.verify.answers.extract import extract, thought_part
from virgo_ray.verify.answers.gold import gold_answer
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.mathcheck import RefusedError
from virgo_ray.verify.answers.narrow import narrow
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.steps import find_steps

MAX_REASON = 300


class TextCheck(Protocol):
    def ask(self, item: Item, answer: str) -> SecondOpinion:
        """Give an opinion on a response (`item.text`) from which `answer` was extracted."""
        ...


class StepCheck:
    """A check that computes again every `a + b = c` that the response writes.

    A wrong step that is computed again rightly later (the same left side) is a corrected slip.

    >>> StepCheck().ask(Item("", "7 + 5 = 12. Then 12 - 4 = 9."), "9").reason
    '12 - 4 = 9, but it is 8'
    """

    def ask(self, item: Item, answer: str) -> SecondOpinion:
        steps = list(find_steps(item.text))
        right = {step.left for step in steps if step.is_right}
        for step in steps:
            if not step.is_right and step.left not in right:
                reason = f"{step.left} = {step.right}, but it is {step.value}"
                return SecondOpinion(Opinion.DOUBTS, reason[:MAX_REASON])
        if not steps:
            return SecondOpinion(Opinion.UNKNOWN, "no arithmetic was found")
        return SecondOpinion(Opinion.AGREES, f"{len(steps)} steps")


class Consistency:
    """A check that the thought comes to the answer that the solution gives.

    >>> text = "<think>so the answer is 7.</think> \\\\boxed{8}"
    >>> Consistency().ask(Item("8", text), "8").opinion.value
    'doubts'
    """

    def __init__(self, formats: Sequence[Format] = FORMATS) -> None:
        self._formats = formats

    def ask(self, item: Item, answer: str) -> SecondOpinion:
        thought = thought_part(item.text, self._formats)
        answer_type = AnswerType(item.answer_type)
        if answer_type is AnswerType.AUTO:
            answer_type = infer_type(gold_answer(item.gold), item.options)
        found = narrow(extract(thought), answer_type, item.options)
        if found.rule not in ("boxed", "boxed_list", "stated"):
            return SecondOpinion(Opinion.UNKNOWN, "the thought states no conclusion")
        try:
            same = equal(answer, found.answer, answer_type, item.options)
        except RefusedError as refused:
            return SecondOpinion(Opinion.UNKNOWN, f"not compared: {refused}")
        if same:
            return SecondOpinion(Opinion.AGREES, found.answer[:100])
        return SecondOpinion(Opinion.DOUBTS, f"the thought concludes {clean(found.answer)[:100]!r}")


def form_local_opinions(item: Item, answer: str, cfg: VerifyConfig) -> dict[str, SecondOpinion]:
    """Form those opinions of `cfg` on a CORRECT response that need its text only.

    A check that fails makes its opinion UNKNOWN, with the reason: at this boundary no failure of a
    check may cost the verdict.
    """
    known: Mapping[str, TextCheck] = {
        "steps": StepCheck(),
        "consistency": Consistency(cfg.formats),
    }
    opinions = {}
    for name in cfg.local_opinions:
        try:
            opinions[name] = known[name].ask(item, answer)
        except Exception as error:
            opinions[name] = SecondOpinion(
                Opinion.UNKNOWN, f"{type(error).__name__}: {str(error)[:200]}"
            )
    return opinions
