"""The figures of one held-out evaluation, which reports show and gates judge.

pass@1 is greedy; pass@k (unbiased estimator, Chen et al. 2021, arXiv 2107.03374) and maj@k use k
samples. TIMEOUT and ERROR count as not solved and are reported as their own share, so that a score
never hides a broken verifier. Nothing depends on the order in which answers came. Of the answers'
words only what the figures need is held (`TextFigures`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from virgo_ray.config import FORMATS, PROBES, Format
from virgo_ray.evaluate.answers import GREEDY, SAMPLED, Answer, Key
from virgo_ray.evaluate.measures import average_majority, average_pass_at, group_samples
from virgo_ray.model.blank import BLANK
from virgo_ray.records import Figures, Problem, Status
from virgo_ray.stats.similarity import Tokens, further_share
from virgo_ray.stats.tally import is_voted_for, mean
from virgo_ray.verify.answers.choice import chosen_option


class TextFigures:
    """The figures that need the text of answers: which greedy answers are long thoughts, and how
    much the samples of a problem differ.

    A problem's samples are held until the last of them has come: memory is that of the problems
    that are in flight.
    """

    def __init__(self, num_samples: int, formats: Sequence[Format] = FORMATS) -> None:
        self._num_samples = num_samples
        self._formats = formats
        self._open: dict[str, dict[int, Tokens]] = {}
        self._long: set[str] = set()
        self._further: dict[str, float] = {}

    @property
    def num_held(self) -> int:
        """Samples whose tokens are in memory."""
        return sum(map(len, self._open.values()))

    def add(self, key: Key, text: str, token_ids: Tokens) -> None:
        id, how, sample = key
        if how == GREEDY:
            if is_long_format(text, self._formats):
                self._long.add(id)
            return
        samples = self._open.setdefault(id, {})
        samples[sample] = token_ids
        if len(samples) == self._num_samples:
            del self._open[id]
            share = further_share([samples[i] for i in sorted(samples)])
            if share is not None:
                self._further[id] = share

    def is_long(self, id: str) -> bool:
        """Whether the greedy answer is a finished long thought."""
        return id in self._long

    def distinct_share(self, ids: Iterable[str]) -> float | None:
        """`similarity.distinct_share` of the samples of these problems."""
        shares = [self._further[id] for id in ids if id in self._further]
        return mean(shares) if shares else None


@dataclass(frozen=True)
class Answers:
    """Answers by how they were asked: greedily, k samples, without picture, permuted, as a probe.

    `problems` are all that were asked, by id.
    """

    problems: Mapping[str, Problem]
    greedy: Sequence[Answer]
    sampled: Sequence[Answer]
    blank: Sequence[Answer]
    permuted: Sequence[Answer]
    probes: Sequence[Answer] = ()

    @classmethod
    def group(
        cls, answers: Iterable[Answer], asked: Sequence[Problem], others: Sequence[Problem],
        probes: Sequence[Problem],
    ) -> Answers:  # fmt: skip
        """Group `answers` by how they were asked; `others` are `asked` blanked or permuted."""
        problems = {p.id: p for p in (*asked, *others, *probes)}
        ids, probed = {p.id for p in asked}, {p.id for p in probes}
        kinds: dict[str, list[Answer]] = defaultdict(list)
        for answer in answers:
            if answer.how == SAMPLED or answer.id in ids:
                kinds[answer.how].append(answer)
            elif answer.id in probed:
                kinds["probes"].append(answer)
            else:
                kinds["blank" if answer.id.endswith(BLANK) else "permuted"].append(answer)
        return cls(
            problems, kinds[GREEDY], kinds[SAMPLED], kinds["blank"], kinds["permuted"],
            kinds["probes"],
        )  # fmt: skip

    def select(self, source: str) -> Answers:
        """Those to the problems of one source, without the probes."""
        kinds = (self.greedy, self.sampled, self.blank, self.permuted)
        return Answers(
            self.problems,
            *([a for a in kind if self.problems[a.id].source == source] for kind in kinds),
        )


def measure(answers: Answers, k: int, texts: TextFigures) -> Figures:
    """The figures of one set of problems; shares and accuracies are fractions, None of nothing."""
    greedy, sampled, blank = answers.greedy, answers.sampled, answers.blank
    groups = group_samples(sampled)
    failed = [a for a in (*greedy, *sampled) if a.status.is_failure_to_judge]
    return Figures(
        num_problems=len(greedy),
        pass_at_1=_share_correct(greedy),
        pass_at_k=average_pass_at(k, groups),
        maj_at_k=average_majority(groups),
        k=k,
        mean_thought_tokens=mean([a.num_tokens for a in greedy]),
        long_format_share=_share(texts.is_long(a.id) for a in greedy),
        truncated_share=_share(a.status is Status.TRUNCATED for a in greedy),
        repetitive_share=_share(a.status is Status.REPETITIVE for a in greedy),
        no_answer_share=_share(a.status is Status.NO_ANSWER for a in greedy),
        distinct_share=texts.distinct_share(group[0].id for group in groups),
        not_judged_share=len(failed) / max(1, len(greedy) + len(sampled)),
        blank_image_pass_at_1=_share_correct(blank) if blank else None,
        num_blank=len(blank),
        consistent_choice_share=consistent_choice_share(
            greedy, answers.permuted, lambda id: answers.problems[id].options
        ),
    )


@dataclass(frozen=True)
class ProbeFigures:
    """The score of one probe; None where it was not asked."""

    pass_at_1: float | None
    num_problems: int


def measure_probe(answers: Sequence[Answer], name: str) -> ProbeFigures:
    """Of the answers to all probes, those of one: `measure_probe(probes, "perception")`."""
    own = select_probe(answers, name)
    return ProbeFigures(_share_correct(own) if own else None, len(own))


def select_probe(answers: Sequence[Answer], name: str) -> list[Answer]:
    """Of the answers to all probes, those of one."""
    return [a for a in answers if a.id.endswith(f"#{name}")]


def solved_flags(answers: Answers) -> dict[str, str]:
    """`Evaluation.solved`: which problems each accuracy counts, in the order of their ids.

    >>> solved_flags(Answers({}, [], [], [], []))
    {}
    """
    groups = group_samples(answers.sampled)
    found = {
        "pass_at_1": {a.id: a.is_correct for a in answers.greedy},
        "pass_at_k": {g[0].id: any(a.is_correct for a in g) for g in groups},
        "maj_at_k": {g[0].id: is_voted_for((a.is_correct, a.answer) for a in g) for g in groups},
        "blank_image_pass_at_1": {a.id: a.is_correct for a in answers.blank},
        **{
            f"{name}_pass_at_1": {a.id: a.is_correct for a in select_probe(answers.probes, name)}
            for name in PROBES
        },
    }
    return {
        figure: "".join(str(int(flags[id])) for id in sorted(flags))
        for figure, flags in found.items()
        if flags
    }


def consistent_choice_share(
    greedy: Sequence[Answer],
    again: Sequence[Answer],
    options_of: Callable[[str], Sequence[str]],
) -> float | None:
    """Share of the choices asked again of which every order got the same option.

    A guesser that likes one letter names another option under every order. An answer that names no
    option is not consistent.
    """
    options: dict[str, set[str | None]] = defaultdict(set)
    pairs = [(a.id.rpartition("~p")[0], a) for a in again]
    asked_again = {id for id, _ in pairs}
    pairs += [(a.id, a) for a in greedy if a.id in asked_again]
    for id, answer in pairs:
        options[id].add(chosen_option(answer.answer, options_of(answer.id)))
    named = options.values()
    return _share(len(texts) == 1 and None not in texts for texts in named) if named else None


def is_long_format(text: str, formats: Sequence[Format] = FORMATS) -> bool:
    """Whether a response holds a finished long thought: both tags of a format, in order."""
    return any(0 <= text.find(f.begin_thought) < text.find(f.end_thought) for f in formats)


def _share_correct(answers: Iterable[Answer]) -> float:
    return _share(a.is_correct for a in answers)


def _share(flags: Iterable[bool]) -> float:
    return mean([float(flag) for flag in flags])
