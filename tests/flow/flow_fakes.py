"""Fakes for the three ports, and a fuse that kills a run at a chosen step.

They behave like the machinery seen from the loop: a rollout is a function of its request's seed and
of the weights served, results arrive in any order, a published version is never trained again.
Whatever a fake keeps in memory dies with it; only files survive a kill.
"""

import hashlib
import json
import random
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from virgo_ray.config import load_config
from virgo_ray.evaluate import Evaluator, Questions
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.gatekeeper import judge_again, refuse_bad_end
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.loop import Material
from virgo_ray.model.blank import blank_pictures
from virgo_ray.model.dropped import is_remade
from virgo_ray.ports import Ports
from virgo_ray.records import (
    Example,
    FitReport,
    Judged,
    Problem,
    PushReport,
    Rollout,
    SeedThought,
    Status,
    Verdict,
    Weights,
)
from virgo_ray.run import learn
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.train.pack import count_portions
from virgo_ray.train.work import TOKENS
from virgo_ray.weights.contents import read_version_below
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.publish import publish, version_dir
from virgo_ray.weights.remade import keeps_tensors, publish_without, restore
from virgo_ray.weights.retention import Retention

BASE = Weights(0, "base")
TINY = str(Path(__file__).parents[2] / "configs/tiny.yaml")
SMALL = (
    "rounds=2", "explore.num_problems=4", "explore.num_samples=2", "train.batch_size=4",
    "train.num_epochs=1", "evaluate.k=2", "evaluate.blank_image=false",
)  # fmt: skip


def small_config(folder, *overrides):
    """The tiny config, made smaller still, for a run in `folder`."""
    return _resolved(overrides).model_copy(update={"run_dir": f"{folder}/run"})


@cache
def _resolved(overrides):
    return load_config(TINY, [*SMALL, *overrides])


WROTE = "wrote "  # begins the steps in which the ledger wrote a whole file


class Killed(BaseException):
    """What SIGKILL would be: nothing catches it."""


@dataclass
class Fuse:
    """Burns down with every step; at zero the process is dead. None never burns."""

    steps_left: int | None = None
    steps: list[str] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    has_burnt: bool = False

    def tick(self, step):
        if self.steps_left is not None and len(self.steps) >= self.steps_left:
            raise Killed(f"step {len(self.steps)}: {step}")
        self.steps.append(step)

    def release_locks(self):
        """What the operating system does for a dead process, and a living one for itself."""
        for ledger in self.ledgers:
            ledger._lock.close() if self.has_burnt else ledger.close()


class FragileBuffer(ReplayBuffer):
    """The real buffer; may die before and after every append."""

    fuse = Fuse()

    def flush(self):
        if self._pending:
            self.fuse.tick("before append")
            super().flush()
            self.fuse.tick("after append")


class FragileLedger(Ledger):
    """The real ledger; may die before and after every commit, and between the two files, into
    which it folds far more often than it must."""

    fuse = Fuse()

    def __init__(self, *args):
        super().__init__(*args)
        self.fuse.ledgers.append(self)

    def _commit(self):
        self.fuse.tick("before commit")
        super()._commit()
        self.fuse.tick("after commit")
        if self._state.get("sequence", 0) % 4 == 0:
            self._fold()

    def _write(self, path, text):
        super()._write(path, text)
        self.fuse.tick(f"{WROTE}{path.name}")


class FragileRetention(Retention):
    """The real one; may die before and after every file."""

    fuse = Fuse()

    def _save(self, note, directory):
        self.fuse.tick(f"before the note of {directory.name}")
        super()._save(note, directory)
        self.fuse.tick(f"after the note of {directory.name}")

    def _remove(self, file):
        self.fuse.tick(f"before {file.name} of {file.parent.name} goes")
        super()._remove(file)
        self.fuse.tick(f"after {file.name} of {file.parent.name} went")


class FakeRollouts:
    """Samples with three requests in flight that finish in any order."""

    def __init__(self, fuse, order, trainer=None):
        self.fuse, self.order = fuse, order
        self.trainer = trainer  # whose memory weights may come from
        self.version = None
        self.asked_seeds = []
        self.asked = []
        self.served = []

    def push(self, weights):
        self.fuse.tick(f"before push of {weights.version}")
        is_held = self.trainer is not None and self.trainer.held == weights.version
        assert weights == BASE or is_held or check_weights(weights.path)
        self.version = weights.version
        self.fuse.tick(f"after push of {weights.version}")
        return PushReport(weights.version, 0.0, 0.0, 0.0)

    def sample(self, requests, sampling):
        for request in in_any_order(requests, 3, self.order):
            if request is None:
                yield None
                continue
            self.fuse.tick(f"sample {request.key}")
            self.asked_seeds.append(request.seed)
            used = sampling.used_for(request.is_greedy)
            self.asked.append((self.version, used.temperature == 0, *request.key))
            yield replace(self.rollout(request, used), is_greedy=request.is_greedy)

    def rollout(self, request, sampling):
        rng = random.Random(f"{request.seed}/{self.version}/{sampling.temperature}")
        said = rng.choice([request.problem.answer, request.problem.answer, "wrong", "forever"])
        ids = tuple(rng.randrange(100) for _ in range(rng.randint(3, 9)))
        return Rollout(
            request.problem, request.sample_index, f"{said} {rng.randint(0, 2)}", ids, "stop",
            self.version, {"temperature": sampling.temperature},
        )  # fmt: skip


class FakeVerifiers:
    """Judges with two rollouts in flight; now and then it cannot judge."""

    def __init__(self, fuse, order):
        self.fuse, self.order = fuse, order

    def judge(self, rollouts):
        for rollout in in_any_order(rollouts, 2, self.order):
            if rollout is None:
                yield None
                continue
            self.fuse.tick(f"judge {rollout.key}")
            said = rollout.text.split()[0]
            status = Status.CORRECT if said == rollout.problem.answer else Status.WRONG
            if said == "forever":
                status = Status.TRUNCATED if rollout.sample_index else Status.TIMEOUT
            yield Judged(rollout, Verdict(status, said, "fake"))


class FakeTrainer:
    """Publishes the plan it was given in place of weights, once it is asked to settle; its tensors
    depend on all before.

    Like a resident one it holds the newest version in memory, by its tensors. What was not settled
    dies with it.
    """

    def __init__(self, fuse, cfg):
        self.fuse, self.cfg, self.root = fuse, cfg, Path(cfg.run_dir) / "weights"
        self.trained, self.again, self.written = [], [], []
        self.held, self.tensors, self.write = None, None, None
        self.publishing = None

    def fit(self, plan, start, version, is_again=False):
        self.settle()
        self.fuse.tick(f"before fit of {version}")
        before = self.tensors if self.held == start.version else read_fake(start)
        path = version_dir(self.root, version)
        content = json.dumps(
            [[asdict(e) for e in plan.examples], plan.steps, start.version], default=list
        )
        is_missing = is_remade(path)
        if is_missing:  # published before, and perhaps not in the ledger yet
            assert (path / "plan.json").read_text() == content
        if is_missing or not (path / "DONE").exists():
            digest = hashlib.sha256(content.encode() + before).digest()
            self.held, self.tensors = version, digest
            self.write = partial(write_fake, content=content, digest=digest, start=start)
            self.fuse.tick(f"in fit of {version}")
            if is_missing:
                args = (self.root, version, self.write, known_hashes)
                self.publishing = version, partial(restore, *args)
            elif keeps_tensors(self.cfg, version):
                self.publishing = version, partial(publish, self.root, version, self.write)
            else:
                args = (self.root, version, self.write, known_hashes, "weights.publish_every")
                self.publishing = version, partial(publish_without, *args)
            (self.again if is_again or is_missing else self.trained).append(version)
        self.fuse.tick(f"after fit of {version}")
        num_tokens = sum(e.num_tokens for e in plan.examples)
        num_targets = sum(len(e.target_ids) for e in plan.examples)
        return FitReport(
            Weights(version, str(path)), len(plan.steps), len(plan.examples), num_tokens,
            num_targets, 2, 1, 0, portions=count_portions(plan.examples),
        )  # fmt: skip

    def settle(self):
        if self.publishing is None:
            return
        (version, publishing), self.publishing = self.publishing, None
        self.fuse.tick(f"before publication of {version}")
        publishing()
        self.fuse.tick(f"after publication of {version}")

    def write_now(self, version):
        self.settle()
        if self.held == version and is_remade(version_dir(self.root, version)):
            restore(self.root, version, self.write, known_hashes)
            self.written.append(version)
        return not is_remade(version_dir(self.root, version))


def known_hashes(draft):
    """None: files are read."""
    return {}


def read_fake(weights):
    """The tensors of published weights, as the fit after them reads them."""
    if weights == BASE:
        return b""
    check_weights(weights.path)
    return load_file(Path(weights.path) / "model.safetensors")["a"].tobytes()


def write_fake(path, content, digest, start):
    (path / "plan.json").write_text(content)
    (path / "fit.json").write_text(json.dumps({"start": {"version": start.version}}))
    save_file({"a": np.frombuffer(digest, np.uint8)}, path / "model.safetensors")
    below = read_version_below(Path(start.path))
    (path / "adapters").mkdir(exist_ok=True)
    save_file({"b": np.zeros(1)}, path / "adapters/adapters.safetensors")
    about = {"version": start.version if below is None else below}
    (path / "adapters/about.json").write_text(json.dumps(about))


class FakePrompter:
    """Characters as tokens."""

    def num_prompt_tokens(self, problem):
        return len(problem.question)

    def example(self, id, problem, response, weight=1.0):
        ids = tuple(map(ord, response)) if isinstance(response, str) else tuple(response)
        prompt = tuple(map(ord, problem.question))
        is_trace = not isinstance(response, str)
        return Example(id, prompt, ids, problem.images, len(prompt) + len(ids), weight, is_trace)


def in_any_order(items, num_in_flight, order):
    """Draws at most `num_in_flight` ahead and yields them as `order` likes; where nothing is to be
    had now, those that wait, and then None."""
    waiting, num_idle = [], 0
    for item in items:
        if item is None:
            num_idle = 0 if waiting else num_idle + 1
            assert num_idle < 1000, "nothing is in flight, and what follows does not come"
            yield waiting.pop(order.randrange(len(waiting))) if waiting else None
            continue
        waiting.append(item)
        if len(waiting) == num_in_flight:
            yield waiting.pop(order.randrange(num_in_flight))
    while waiting:
        yield waiting.pop(order.randrange(len(waiting)))


@dataclass
class Process:
    """One start of a run: fresh objects, the same files."""

    cfg: object
    fuse: Fuse = field(default_factory=Fuse)
    order_seed: int = 0
    material: Material = field(default_factory=lambda: MATERIAL)
    verifiers: type = FakeVerifiers
    heldout: list = field(default_factory=lambda: HELDOUT)
    teacher: object = None
    probes: dict = field(default_factory=dict)
    said: list = field(default_factory=list)
    dropped: list = field(default_factory=list)

    def run(self):
        """To the end, or to a gate, unless the fuse burns out. In the order of `run.run`."""
        order = random.Random(self.order_seed)
        self.trainer = FakeTrainer(self.fuse, self.cfg)
        self.rollouts = FakeRollouts(self.fuse, order, self.trainer)
        self.checked = self.verifiers(self.fuse, order)
        self.labels = []
        blank = partial(blank_pictures, directory=Path(self.cfg.run_dir) / "blank")
        material = replace(self.material, blank=blank)
        try:
            ledger = fragile(FragileLedger, self.fuse).open(self.cfg, BASE)
            judge_again(self.cfg.gates, ledger)
            machinery, tidy = partial(self.machinery, ledger), partial(self.tidy, ledger)
            for _ in learn(self.cfg, material, ledger, machinery, self.show, tidy):
                pass
            refuse_bad_end(self.cfg.gates, ledger)
        except Killed:
            self.fuse.has_burnt = True
            raise
        finally:
            self.fuse.release_locks()
        return self

    @contextmanager
    def machinery(self, ledger):
        """In place of a Ray cluster: fakes, but the real store and evaluator."""
        run_dir, version = Path(self.cfg.run_dir), ledger.committed_buffer_version
        store = fragile(FragileBuffer, self.fuse).open(
            run_dir, version, clock=Clock(), owner=ledger.wandb_id
        )
        questions = Questions(ledger.wandb_id, self.heldout, self.probes)
        evaluator = Evaluator(self.cfg, questions, self.rollouts, self.checked, self.said.append)
        yield Ports(self.rollouts, self.checked, self.trainer, store, evaluator, self.teacher)

    def tidy(self, ledger):
        retention = fragile(FragileRetention, self.fuse)(
            self.cfg.weights, Path(self.cfg.run_dir) / "weights"
        )
        freed = retention.apply(ledger.rounds(), ledger.asked_weights)
        self.dropped += [f.version for f in freed]

    def show(self, done, store):
        assert self.rollouts.version == done.weights.version
        self.labels.append(done.label)


class Clock:
    """0.8 s pass between two looks at it, so chunks hold a few rollouts each."""

    now = 0.0

    def __call__(self):
        self.now += 0.8
        return self.now


def fragile(kind, fuse):
    return type(kind.__name__, (kind,), {"fuse": fuse})


MATERIAL = Material(
    problems=[Problem(f"p{i}", f"What is {i}?", str(i), source=f"s{i % 2}") for i in range(5)],
    seed_thoughts=[
        SeedThought(Problem(f"s{i}", f"Think of {i}.", str(i)), f"thought {i}") for i in range(4)
    ],
    prompter=FakePrompter(),
    blank=lambda problem: problem,
    work=TOKENS,
)
HELDOUT = [Problem("h", "What was it?", "9")]


def end_state(cfg):
    """All that a run leaves behind and that must not depend on how often it was killed."""
    run_dir = Path(cfg.run_dir)
    ledger = read_state(run_dir / "ledger.json")
    explored = {t: dict(r["explored"]) for t, r in ledger["rounds"].items() if "explored" in r}
    for entry in explored.values():
        del entry["buffer_version"]
    for result in ledger["evaluations"].values():
        del result["seconds"]
    return {
        "rollouts": stored(cfg),
        "explored": explored,
        "evaluations": ledger["evaluations"],
        "rejected": ledger.get("rejected", {}),
        "plans": {
            path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run_dir.glob("weights/*/plan.json"))
        },
    }


def stored(cfg):
    """{(round, problem id, sample index): Judged}; a key that is there twice fails."""
    buffer = ReplayBuffer.open(cfg.run_dir)
    found = [((t, *j.rollout.key), j) for t in range(cfg.rounds + 1) for j in buffer.judged([t])]
    assert len(found) == len(dict(found)), "a key is twice in the store"
    return dict(sorted(found, key=lambda pair: pair[0]))
