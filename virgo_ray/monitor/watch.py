"""Watches a run without taking part in it.

The wrappers implement the ports, pass everything through unchanged, and tell a `Monitor` what they
saw; the monitor turns it into metrics records and into what the console shows. Taking all wrappers
away changes nothing but the view. All calls come from the driver's main thread, except that
verifiers may pull rollouts (and so call `Monitor.sampled`) from a thread of their own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Protocol

from virgo_ray.config import SamplingConfig
from virgo_ray.monitor.intake import (
    FEW_TOKENS,
    describe_portions,
    portion_numbers,
    warn_of_few_tokens,
)
from virgo_ray.monitor.metrics import Before, Metrics
from virgo_ray.monitor.progress import EVALUATE, SAMPLE, START, Progress
from virgo_ray.ports import Evaluator, Rollouts, Sampler, Trainer, Value, Verifiers
from virgo_ray.records import (
    Evaluation,
    FitReport,
    Judged,
    Plan,
    PushReport,
    Request,
    Rollout,
    Round,
    Weights,
)
from virgo_ray.train.pack import count_portions, num_tokens
from virgo_ray.verify.tally import opinion_counts

LOG_EVERY_S = 5.0
LOOK_EVERY_S = 60.0


class Screen(Protocol):
    """Shows progress to a person."""

    def update(self, progress: Progress, phase_changed: bool) -> None: ...

    def say(self, text: str) -> None: ...


class Monitor:
    """Collects what the wrappers see, for metrics and screen."""

    def __init__(
        self,
        name: str,
        last_round: int,
        metrics: Metrics,
        screen: Screen,
        before: Before | None = None,
    ) -> None:
        """`before` is what earlier starts logged: an interrupted fit that goes on from its last
        checkpoint does the last of their train steps again, to the same end."""
        before = before or Before()
        self._logged_steps = before.last_train_step
        self._rollouts = Counter(before.rollouts)  # by phase, of the phases that are over
        self._is_evaluating = False
        self._done_before = 0  # rollouts of this phase, when the running call asked for its own
        self.progress = Progress(name, last_round)
        self._metrics = metrics
        self._screen = screen
        self._lock = threading.Lock()
        self._logged = 0.0
        self._looks: dict[str, Callable[[], dict[str, float]]] = {}
        self._looked = 0.0
        self._train_step_offset = 0
        self._fit_before: FitReport | None = None
        self._idle_shares: tuple[float, ...] = ()  # of the running fit's steps
        self._is_again = False  # the running fit was logged before

    def watch(self, kind: str, look: Callable[[], dict[str, float]]) -> None:
        """`look` says, whenever it is asked, numbers of a record of this kind. Of kind `phase` it
        is asked when a phase ends."""
        self._looks[kind] = look

    def log_looks(self, at_most_every_s: float = 0.0) -> None:
        """One record of everything that is watched, unless the last ones are recent."""
        now = time.monotonic()
        if not self._looks or now - self._looked < at_most_every_s:
            return
        self._looked = now
        for kind, look in self._looks.items():
            if kind == "phase":
                continue
            phase: dict[str, Value] = {"phase": self.progress.phase} if kind == "memory" else {}
            if values := look():
                self.event(kind, **phase, **values)
            if kind == "memory" and values:
                self.progress.running.resident_mib = sum(values.values())

    def round(
        self,
        label: str | int,
        train_steps_before: int = 0,
        fit_before: FitReport | None = None,
        round_seconds: Sequence[float] = (),
    ) -> None:
        """Which round the next phases belong to, the last fit that trained something, and how long
        complete rounds took."""
        if str(label) != self.progress.label:
            self.progress.running.round_began = time.monotonic()
        self.progress.running.round_seconds = tuple(round_seconds)
        self.progress.label = str(label)
        self._fit_before = fit_before
        self._train_step_offset = train_steps_before

    def end_phase(self) -> None:
        """Log how long the phase took that goes on, once."""
        ended = self.progress
        if ended.has_ended or ended.phase == START:
            return
        ended.has_ended = True
        values: dict[str, Value] = {"phase": ended.phase, "phase_seconds": round(ended.seconds, 3)}
        if ended.tokens:
            values["phase_tokens_per_s"] = round(ended.tokens_per_s, 1)
        devices = self._looks.get("phase", dict)()
        ended.running.device_mib = devices.get("device_memory_peak_mib", ended.running.device_mib)
        self.event("phase", **values, **devices)

    def engine_is_up(self, num: int, total: int) -> None:
        """One more engine is there, `num` of `total`."""
        with self._lock:
            self.progress.done, self.progress.total = num, total
        self.say(f"engine {num} of {total} is up after {self.progress.seconds:.0f} s")
        self._screen.update(self.progress, phase_changed=False)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """What is sampled within belongs to the phase `evaluate`."""
        self._is_evaluating = True
        try:
            self.phase(EVALUATE)
            yield
        finally:
            self._is_evaluating = False

    def phase(self, phase: str, total: int = 0) -> None:
        self.end_phase()
        with self._lock:
            old = self.progress
            if old.phase in (SAMPLE, EVALUATE):
                self._rollouts[old.phase] += old.done
            self.progress = Progress(
                old.name, old.last_round, old.label, phase, total=total, running=old.running
            )
        self._screen.update(self.progress, phase_changed=True)

    def sampling(self, num_asked: int) -> None:
        """Rollouts are asked for, by an exploration or by the evaluation that goes on."""
        if not self._is_evaluating:
            self.phase(SAMPLE, num_asked)
        with self._lock:
            self._done_before = self.progress.done
            self.progress.total = self._done_before + num_asked

    def sampled(self, rollout: Rollout, num_asked: int) -> None:
        """`num_asked` grows while more requests follow from verdicts."""
        with self._lock:
            self.progress.total = self._done_before + num_asked if num_asked else 0
            self.progress.done += 1
            self.progress.tokens += len(rollout.token_ids)

    def judged(self, judged: Judged) -> None:
        with self._lock:
            self.progress.statuses[judged.verdict.status] += 1
            self.progress.opinions.update(opinion_counts(judged.verdict))
        self._screen.update(self.progress, phase_changed=False)
        if time.monotonic() - self._logged > LOG_EVERY_S:
            self.log_sampling()
            self.log_looks(LOOK_EVERY_S)

    def log_sampling(self) -> None:
        """One record of the running exploration or evaluation."""
        self._logged = time.monotonic()
        now = self.progress
        self._metrics.log(
            "sampling",
            round=_number(now.label),
            phase=now.phase,
            rollouts_done=now.done,
            rollouts_total=self._rollouts[now.phase] + now.done,
            rollouts_asked=now.total,
            tokens_per_s=round(now.tokens_per_s, 1),
            accept_rate=now.accept_rate,
            **{f"status_{status}": count for status, count in now.statuses.items()},
            **now.opinions,
        )

    def step(self, values: dict[str, float]) -> None:
        """One optimizer step, as reported by the trainer."""
        step = int(values["step"])
        with self._lock:
            self.progress.done = step
            self.progress.loss = values["loss"]
            self.progress.tokens += int(values.get("num_tokens", 0))
            running = self.progress.running
            running.device_mib = values.get("device_peak_mib", running.device_mib)
        rest: dict[str, Value] = {f"train/{k}": v for k, v in values.items() if k != "step"}
        if self._idle_shares:
            rest["train/idle_share"] = round(self._idle_shares[step - 1], 4)
        train_step = self._train_step_offset + step
        if train_step > self._logged_steps and not self._is_again:
            self.event("train", train_step=train_step, **rest)
        self.log_looks(LOOK_EVERY_S)
        self._screen.update(self.progress, phase_changed=False)

    def fit_begins(self, plan: Plan) -> None:
        """Say what the fit trains on, and warn where it is far less than the fit before had."""
        self.phase("train", len(plan.steps))
        self._is_again = False
        self._idle_shares = plan.idle_shares
        portions = count_portions(plan.examples)
        total = sum(num_tokens(plan, step) for step in range(len(plan.steps)))
        self.say(f"round {self.progress.label} trains on {describe_portions(portions)}")
        before = self._fit_before
        if before is not None and (warning := warn_of_few_tokens(before, total, portions)):
            self.say(f"warning: {warning}")
            self.event("warning", warning=FEW_TOKENS, tokens=total, tokens_before=before.num_tokens)

    def fit_begins_again(self, plan: Plan, version: int) -> None:
        """Of a version that was logged when it was trained first."""
        self.phase("train", len(plan.steps))
        self._is_again, self._idle_shares = True, plan.idle_shares
        self.say(f"version {version} is trained again: its tensors are not on the disk")

    def interrupted_fit_is_done(self) -> None:
        """Steps from here on are new ones."""
        self._logged_steps = 0

    def event(self, kind: str, **values: Value) -> None:
        self._metrics.log(kind, round=_number(self.progress.label), **values)

    def end_round(self, done: Round, examples: Sequence[Judged]) -> None:
        """Show a complete round in the sinks that show more than numbers."""
        self._metrics.end_round(done, examples)

    def say(self, text: str) -> None:
        self._screen.say(text)


def _count(requests: Iterable[Request | None]) -> int:
    """How many there are, as far as that is known."""
    return len(requests) if isinstance(requests, Sized) else 0


def _number(label: str) -> int | None:
    return int(label) if label.isdigit() else None


class WatchedSampler:
    """A `Sampler` that tells a monitor about finished rollouts."""

    def __init__(self, sampler: Sampler, monitor: Monitor) -> None:
        self._sampler = sampler
        self._monitor = monitor

    def sample(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        self._monitor.sampling(_count(requests))
        for rollout in self._sampler.sample(requests, sampling):
            if rollout is not None:
                self._monitor.sampled(rollout, _count(requests))
            yield rollout


class WatchedRollouts(WatchedSampler):
    """`Rollouts` that tells a monitor about pushes too."""

    def __init__(self, rollouts: Rollouts, monitor: Monitor) -> None:
        super().__init__(rollouts, monitor)
        self._rollouts = rollouts

    def push(self, weights: Weights) -> PushReport:
        self._monitor.phase("push")
        report = self._rollouts.push(weights)
        self._monitor.event(
            "push",
            weights_version=report.version,
            push_seconds=round(report.seconds, 3),
            transport=report.transport,
            gather_seconds=round(report.gather_seconds, 3),
            wire_seconds=round(report.wire_seconds, 3),
            load_seconds=round(report.load_seconds, 3),
            probe_seconds=round(report.probe_seconds, 3),
            max_diff_text=report.max_diff_text,
            max_diff_image=report.max_diff_image,
            **report.probe,
        )
        return report


class WatchedVerifiers:
    """`Verifiers` that tells a monitor about verdicts."""

    def __init__(self, verifiers: Verifiers, monitor: Monitor) -> None:
        self._verifiers = verifiers
        self._monitor = monitor

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        for judged in self._verifiers.judge(rollouts):
            if judged is not None:
                self._monitor.judged(judged)
            yield judged
        self._monitor.log_sampling()


class WatchedTrainer:
    """`Trainer` that tells a monitor about fits; its steps arrive through `Monitor.step`."""

    def __init__(self, trainer: Trainer, monitor: Monitor) -> None:
        self._trainer = trainer
        self._monitor = monitor

    def write_now(self, version: int) -> bool:
        return self._trainer.write_now(version)

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        if is_again:
            self._monitor.fit_begins_again(plan, version)
            return self._trainer.fit(plan, start, version, is_again)
        self._monitor.fit_begins(plan)
        report = self._trainer.fit(plan, start, version, is_again)
        self._monitor.interrupted_fit_is_done()
        self._monitor.log_looks()
        self._monitor.event(
            "fit",
            weights_version=version,
            steps=report.num_steps,
            examples=report.num_examples,
            tokens=report.num_tokens,
            target_tokens=report.num_target_tokens,
            first_loss=report.first_loss,
            last_loss=report.last_loss,
            fit_seconds=round(report.seconds, 1),
            resumed_from_step=report.resumed_from_step,
            **portion_numbers(report),
        )
        return report

    def settle(self) -> None:
        self._monitor.phase("publish")
        self._trainer.settle()


class WatchedEvaluator:
    """`Evaluator` that tells a monitor when it begins."""

    def __init__(self, evaluator: Evaluator, monitor: Monitor) -> None:
        self._evaluator = evaluator
        self._monitor = monitor

    def evaluate(self, weights: Weights) -> Evaluation:
        with self._monitor.evaluation():
            return self._evaluator.evaluate(weights)
