"""Begins a new run with the rollouts of another one (`store.from`).

What the other run sampled is judged again by this run's verifier and stored in rounds before the
first: its last round becomes round -1. So no key of this run is taken, its own rounds are whole,
and selection and solve rates see the older thoughts as those of earlier rounds. Every rollout keeps
the weights version it was sampled with and names the run it is from (`sampling["from_run"]`). What
does not fit this run's data is left aside and counted. The other run may still grow: what is taken
of it is committed before the first rollout, so that a later start gives its rounds the same
numbers. A start that is killed in between goes on with what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from virgo_ray.config import Config, resolve_run_dir
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import resolve_model
from virgo_ray.model.images import image_hash
from virgo_ray.model.prompts import Prompter
from virgo_ray.ports import Ports, Store
from virgo_ray.records import Problem, Rollout
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.schema import ROLLOUT_COLUMNS, to_judged
from virgo_ray.teacher.local import has_same_tokens
from virgo_ray.traces.source import find_run

CONTENT = ("question", "context", "options", "answer", "answer_type")
BATCH = 512  # rollouts in memory


@dataclass
class Taking:
    """The rollouts of these rounds that fit `problems`; `aside` counts the others by the reason."""

    reader: TraceReader
    rounds: Sequence[int]  # of the other run, in order
    problems: Mapping[str, Problem]
    prompter: Prompter
    max_length: int
    aside: Counter[str] = field(default_factory=Counter)

    def take(self, ports: Ports, ledger: Ledger) -> str:
        """Judge and store what fits and is not stored yet; returns what became of all.

        Raises:
            VerifierError, TraceStoreError: what was stored before is kept.
        """
        ledger.begin_taking(self.reader.owner, self.reader.version, self.rounds)
        num_taken: dict[str, int] = {}
        for t, other in zip(range(-len(self.rounds), 0), self.rounds, strict=True):
            fitting = self._fitting(other)
            while batch := list(islice(fitting, BATCH)):
                missing = [r for r in batch if _is_missing(ports.store, t, r)]
                judged = filter(None, ports.verifiers.judge(missing))
                ports.store.add_all(t, judged, missing)
            num_taken[str(t)] = sum(1 for _ in ports.store.rows(t))
        ledger.commit_taken(ports.store.seal(), self.reader.owner, num_taken, self.aside)
        return _describe(self.reader.owner, num_taken, self.aside)

    def _fitting(self, round: int) -> Iterator[Rollout]:
        """A round's rollouts of problems that this run has too, with the problems of today."""
        hashes = lru_cache(image_hash)
        room = lru_cache(lambda p: self.max_length - self.prompter.num_prompt_tokens(p))
        names = [name for name in ROLLOUT_COLUMNS if name in self.reader.columns]
        for batch in self.reader.scan(names, [round]):
            for row in batch.to_pylist():
                rollout = to_judged(row).rollout
                problem = self.problems.get(rollout.problem.id)
                if problem is None:
                    self.aside["problem not in the data"] += 1
                elif _differ(problem, rollout.problem, hashes(problem.images), row["image_hash"]):
                    self.aside["problem changed"] += 1
                elif len(rollout.token_ids) > room(problem):
                    self.aside["longer than model.max_length"] += 1
                else:
                    notes = {"from_run": self.reader.owner, **rollout.sampling}
                    yield replace(rollout, problem=problem, sampling=notes)


def find_taking(
    cfg: Config, problems: Sequence[Problem], prompter: Prompter, ledger: Ledger
) -> Taking | None:
    """What `store.from` still has to give to this run, if anything.

    Raises:
        ConfigError, TraceStoreError: there is no such run, it is another one than at the start that
            began to take it in, or its tokens are not this model's.
    """
    origin = cfg.store.origin
    if origin is None or ledger.has_taken:
        return None
    place = origin if "://" in origin else str(resolve_run_dir(origin))
    run = find_run(place, cfg.store.storage_options)
    theirs = run.cfg.model.path if run.cfg is not None else cfg.model.path
    if theirs != cfg.model.path and not has_same_tokens(
        Path(resolve_model(cfg.model.path)), Path(resolve_model(theirs))
    ):
        raise ConfigError(
            f"store.from={origin!r}: its thoughts are tokens of model.path={theirs!r}, expected "
            f"those of {cfg.model.path!r}: `virgo-ray traces export` gives them as text"
        )
    known = {problem.id: problem for problem in problems}
    reader, rounds = _find_source(run.reader(), origin, ledger)
    return Taking(reader, rounds, known, prompter, cfg.model.max_length)


def _find_source(
    reader: TraceReader, origin: str, ledger: Ledger
) -> tuple[TraceReader, Sequence[int]]:
    """What to read and which rounds of it: as an earlier start began, or else as it is now."""
    begun = ledger.taking
    if begun is None:
        return reader, [t for t in reader.rounds() if t != 0]
    if begun["run"] != reader.owner:
        raise ConfigError(
            f"store.from={origin!r} is run {reader.owner!r}, expected {begun['run']!r}, of which "
            "this run has taken a part; put that one back, or start anew with run_dir=PATH"
        )
    return reader.at(begun["version"]) or reader, begun["rounds"]


def _is_missing(store: Store, round: int, rollout: Rollout) -> bool:
    return bool(store.still_missing(round, [(rollout.problem, rollout.sample_index)], seed=0))


def _differ(ours: Problem, theirs: Problem, our_images: str, their_images: str) -> bool:
    same = all(getattr(ours, name) == getattr(theirs, name) for name in CONTENT)
    return not same or our_images != their_images


def _describe(owner: str, num_taken: Mapping[str, int], aside: Mapping[str, int]) -> str:
    left = "".join(f"; {num} left aside: {why}" for why, num in sorted(aside.items()))
    rounds = f", as rounds {min(map(int, num_taken))} to -1" if num_taken else ""
    return f"{sum(num_taken.values())} rollouts of run {owner} were taken in{rounds}{left}"
