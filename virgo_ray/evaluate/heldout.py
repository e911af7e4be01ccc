"""Measures a model on held-out problems, through the same ports as the exploration.

Every problem is asked greedily and k times by `evaluate.sampling`. With `blank_image` every picture
is also replaced by a white one of its size: whatever is still solved was guessed. With
`permute_options` choices are asked again under other orders: who knows the answer names the same
option. Probes are further problems with a score of their own: what is seen (`perception`), what is
known without pictures (`text`). An interrupted evaluation goes on with what is missing and ends
with the figures of an uninterrupted one. This module knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.evaluate.answers import AnswerFile
from virgo_ray.evaluate.figures import Answers, TextFigures, measure, measure_probe, solved_flags
from virgo_ray.evaluate.heldout_answers import identity, open_answers
from virgo_ray.evaluate.sampling import Ports, SamplingPlan, complete
from virgo_ray.model.blank import blank_pictures
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Evaluation, Problem, Weights
from virgo_ray.verify.answers.choice import permuted


@dataclass(frozen=True)
class Questions:
    """What a run is measured on. `run_id` is a name that no other run has: answers of another run
    are never taken for this one's."""

    run_id: str
    heldout: Sequence[Problem]
    probes: Mapping[str, Sequence[Problem]] = field(default_factory=dict)


class Evaluator:
    """Evaluates weights that the rollout workers serve.

    Example: `Evaluator(cfg, questions, rollouts, verifiers).evaluate(weights).pass_at_1` is 0.62.
    """

    def __init__(
        self,
        cfg: Config,
        questions: Questions,
        rollouts: Rollouts,
        verifiers: Verifiers,
        say: Callable[[str], None] = print,
    ) -> None:
        self._rollouts = rollouts
        self._verifiers = verifiers
        self._cfg = cfg
        self._asked = list(questions.heldout)
        self._run_id = questions.run_id
        self._say = say
        named = questions.probes.items()
        self._probes = [replace(p, id=f"{p.id}#{name}") for name, own in named for p in own]

    def evaluate(self, weights: Weights) -> Evaluation:
        """The figures of `weights`, which the workers serve; asks what is not answered yet.
        `seconds` are of this start.

        Raises:
            RolloutError, VerifierError, TraceStoreError: what was judged before is kept.
        """
        started = time.monotonic()
        cfg = self._cfg
        others = [*self._blank(), *self._permute()]
        further = [*others, *self._probes]
        plan = SamplingPlan(cfg.evaluate.sampling, cfg.evaluate.k, True, f"{cfg.seed}/evaluate")
        problems = [*self._asked, *further]
        own = identity(cfg, problems, self._run_id, weights)
        with closing(open_answers(Path(cfg.run_dir), own, problems, self._say)) as kept:
            requests = plan.requests(self._asked, further)
            if len(kept):
                self._say(f"evaluation goes on: {len(kept)} of {len(requests)} answers are there")
            whose = f"weights version {weights.version}"
            found = complete(requests, plan.sampling, kept, self._serve, whose)
            kept.sync()
            texts = self._read_texts(kept)
        answers = Answers.group(found, self._asked, others, self._probes)
        return self._measure(answers, texts, time.monotonic() - started)

    def _serve(self) -> AbstractContextManager[Ports]:
        """The run's own workers, which serve the weights already and outlive the evaluation."""
        return nullcontext((self._rollouts, self._verifiers))

    def _read_texts(self, kept: AnswerFile) -> TextFigures:
        texts = TextFigures(self._cfg.evaluate.k, self._cfg.verify.formats)
        for answer, row in kept.rows():
            texts.add(answer.key, row["text"], row["token_ids"])
        return texts

    def _measure(self, answers: Answers, texts: TextFigures, seconds: float) -> Evaluation:
        k = self._cfg.evaluate.k
        sources = sorted({p.source for p in self._asked})
        perception = measure_probe(answers.probes, "perception")
        text = measure_probe(answers.probes, "text")
        return Evaluation(
            **vars(measure(answers, k, texts)),
            perception_pass_at_1=perception.pass_at_1,
            num_perception=perception.num_problems,
            text_pass_at_1=text.pass_at_1,
            num_text=text.num_problems,
            solved=solved_flags(answers),
            per_source={s: measure(answers.select(s), k, texts) for s in sources},
            seconds=seconds,
        )

    def _permute(self) -> list[Problem]:
        seeds = range(1, self._cfg.evaluate.permute_options + 1)
        again = [(p, permuted(p, seed)) for p in self._asked for seed in seeds]
        return [other for p, other in again if other is not p]

    def _blank(self) -> list[Problem]:
        if not self._cfg.evaluate.blank_image:
            return []
        directory = Path(self._cfg.run_dir) / "blank"
        return [blank_pictures(p, directory) for p in self._asked if p.images]
