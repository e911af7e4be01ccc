"""Second opinions on a judged response: right answer, wrong thought?

Each is a short class with one method, `ask(item, answer) -> Second`. They change no verdict: the
caller decides what a doubt costs. The two here read only the text, and are asked in the judge's
killable process; llm_judge.py asks a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from virgo_ray.config import FORMATS, Format, VerifyConfig
from virgo_ray.records import AnswerType, Opinion, Second
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


class SecondOpinion(Protocol):
    def ask(self, item: Item, answer: str) -> Second:
        """An opinion on a response (`item.text`) of which `answer` was extracted."""
        ...


class StepCheck:
    """Recomputes every `a + b = c` that the response writes.

    A wrong step that is computed again rightly later (the same left side) is a corrected slip.

    >>> StepCheck().ask(Item("", "7 + 5 = 12. Then 12 - 4 = 9."), "9").reason
    '12 - 4 = 9, but it is 8'
    """

    def ask(self, item: Item, answer: str) -> Second:
        steps = list(find_steps(item.text))
        right = {step.left for step in steps if step.is_right}
        for step in steps:
            if not step.is_right and step.left not in right:
                reason = f"{step.left} = {step.right}, but it is {step.value}"
                return Second(Opinion.DOUBTS, reason[:MAX_REASON])
        if not steps:
            return Second(Opinion.UNKNOWN, "no arithmetic was found")
        return Second(Opinion.AGREES, f"{len(steps)} steps")


class Consistency:
    """Whether the thought comes to the answer that the solution gives.

    >>> text = "<think>so the answer is 7.</think> \\\\boxed{8}"
    >>> Consistency().ask(Item("8", text), "8").opinion.value
    'doubts'
    """

    def __init__(self, formats: Sequence[Format] = FORMATS) -> None:
        self._formats = formats

    def ask(self, item: Item, answer: str) -> Second:
        thought = thought_part(item.text, self._formats)
        answer_type = AnswerType(item.answer_type)
        if answer_type is AnswerType.AUTO:
            answer_type = infer_type(gold_answer(item.gold), item.options)
        found = narrow(extract(thought), answer_type, item.options)
        if found.rule not in ("boxed", "boxed_list", "stated"):
            return Second(Opinion.UNKNOWN, "the thought states no conclusion")
        try:
            same = equal(answer, found.answer, answer_type, item.options)
        except RefusedError as refused:
            return Second(Opinion.UNKNOWN, f"not compared: {refused}")
        if same:
            return Second(Opinion.AGREES, found.answer[:100])
        return Second(Opinion.DOUBTS, f"the thought concludes {clean(found.answer)[:100]!r}")


def local_opinions(item: Item, answer: str, cfg: VerifyConfig) -> dict[str, Second]:
    """What the opinions of `cfg` that read only the text say of a CORRECT response.

    An opinion that fails is UNKNOWN with its reason: at this boundary nothing it does to itself
    may cost the verdict.
    """
    known: Mapping[str, SecondOpinion] = {
        "steps": StepCheck(),
        "consistency": Consistency(cfg.formats),
    }
    opinions = {}
    for name in cfg.local_opinions:
        try:
            opinions[name] = known[name].ask(item, answer)
        except Exception as error:
            opinions[name] = Second(Opinion.UNKNOWN, f"{type(error).__name__}: {str(error)[:200]}")
    return opinions
