"""Objectives from the same weights, in one process: what each makes of as many rollouts.

    python scripts/compare_objectives.py configs/tiny_grpo.yaml --arms grpo imitation --seeds 0 1 2

An arm is an objective of `train.objective`, or a control of `grpo` (control_rewards.py): `shuffled`
must stay where it is, `flipped` must fall. `imitation` learns from this round's correct rollouts,
from the weights before, in as many steps as `grpo`. Every arm of a seed asks the same problems in
the same round. Rewards, groups, packing and fits are those of a run (`selection`, `TrainEngine`
with DeepSpeed); samples are drawn by plain transformers in place of vLLM, and there is no Ray, no
store and no gate: learning is seen with a tenth of the start of a run. `explore`, `train`, `model`
and `data` of the config count.

Prints a line per round and arm: `reward` is the share of correct rollouts at the sampling
temperature, before the round's fit, about problems drawn anew; an event `last` is what the last
fit came to. With `--evaluate` held-out problems are asked at the end, greedily and `evaluate.k`
times. All that is printed goes to OUT/results.jsonl too.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from control_rewards import CONTROLS, control

from virgo_ray.config import Config, SourceConfig, load_config
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import AnswerType, Example, Member, Problem, Rollout, Status, Weights
from virgo_ray.selection import reinforcing
from virgo_ray.selection.advantages import make_groups
from virgo_ray.selection.reinforcing import choose_lessons
from virgo_ray.selection.streams import stream
from virgo_ray.stats.tally import pass_at_k
from virgo_ray.tiny.draw import write_picture
from virgo_ray.tiny.puzzles import make_puzzles
from virgo_ray.train import zero
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.model import load_model
from virgo_ray.train.pack import pack
from virgo_ray.train.pictures import Pictures
from virgo_ray.verify.verdict import judge

SHOWN = ("start_kl", "clip_share", "ratio_mean", "entropy", "sampler_gap", "grad_norm",
         "margin_mean", "preferred_share", "chosen_logratio", "rejected_logratio")  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A rollout and what it is worth."""

    member: Member
    problem: Problem
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Sampling:
    """Samples by transformers, with the log-probabilities of what was drawn."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._prompter = Prompter(cfg.model, cfg.prompt)
        self._pictures = Pictures(cfg.model.path, cfg.model)
        self._banned = sorted(self._prompter.placeholder_ids)

    @torch.inference_mode()
    def sample(
        self, weights: Weights, problems: Sequence[Problem], num: int, round: int, seed: int
    ) -> list[Judged]:
        """`num` judged rollouts of every problem, at `explore.sampling`; greedy if it is 0."""
        model: Any = load_model(weights.path, self._cfg.model).eval()
        torch.manual_seed(seed)
        asked = [p for p in problems for _ in range(max(num, 1))]
        inputs = self._inputs(asked)
        sampling = self._cfg.explore.sampling
        drawn: dict[str, Any] = {"do_sample": False}
        if num:
            drawn = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": 0,
                "top_p": 1.0,
            }
        end = self._prompter.end_id
        found = model.generate(
            **inputs, **drawn, max_new_tokens=sampling.max_tokens, suppress_tokens=self._banned,
            eos_token_id=end, pad_token_id=end, return_dict_in_generate=True, output_scores=num > 0,
        )  # fmt: skip
        new = found.sequences[:, inputs["input_ids"].shape[1] :]
        scores = torch.zeros_like(new, dtype=torch.float32)
        for step, of_all in enumerate(found.scores or ()):
            scores[:, step] = of_all.log_softmax(-1).gather(-1, new[:, step : step + 1])[:, 0]
        rows = zip(asked, new.tolist(), scores.tolist(), strict=True)
        return [
            self._judge(p, ids, logprobs, round, n % max(num, 1), weights.version)
            for n, (p, ids, logprobs) in enumerate(rows)
        ]

    def _judge(
        self,
        problem: Problem,
        ids: list[int],
        logprobs: list[float],
        round: int,
        n: int,
        version: int,
    ) -> Judged:
        end = self._prompter.end_id
        length = ids.index(end) + 1 if end in ids else len(ids)
        kept, reason = tuple(ids[:length]), "stop" if end in ids else "length"
        rollout = Rollout(problem, n, self._prompter.decode(kept), kept, reason, version)
        status = judge(problem, rollout, self._cfg.verify).status
        member = Member(
            round, problem.id, n, status, reason, length, version,
            temperature=self._cfg.explore.sampling.temperature, has_logprobs=True,
        )  # fmt: skip
        return Judged(member, problem, kept, tuple(logprobs[:length]))

    def _inputs(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """Prompts with their pictures' places expanded, padded on the left."""
        prompts, pictures = [], []
        for problem in problems:
            own = [self._pictures.get(path) for path in problem.images]
            pictures += own
            queue = iter(own)
            prompts.append(
                [
                    i
                    for token in self._prompter.prompt_ids(problem)
                    for i in [token] * (next(queue).num_tokens if token == self._image_id else 1)
                ]
            )
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_id).int() * mask.int(),
            "pixel_values": torch.cat([p.pixels for p in pictures]),
            "image_grid_thw": torch.cat([p.grid for p in pictures]),
        }

    @property
    def _image_id(self) -> int:
        return int(self._prompter._processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"))


class Groups:
    """The rollouts of one round, as a store gives them."""

    def __init__(self, judged: Sequence[Judged]) -> None:
        self._judged = judged

    def groups(self, round: int) -> dict[str, tuple[Member, ...]]:
        found: dict[str, list[Member]] = {}
        for own in self._judged:
            found.setdefault(own.problem.id, []).append(own.member)
        return {id: tuple(members) for id, members in found.items()}


def learn_from(cfg: Config, round: int, judged: Sequence[Judged], start: Weights) -> list[Example]:
    """What a fit is given, as `loop.training_examples` makes it."""
    prompter = Prompter(cfg.model, cfg.prompt)
    by_key = {(own.problem.id, own.member.sample_index): own for own in judged}

    def example(member: Member, weight: float) -> tuple[Judged, Example]:
        own = by_key[member.problem_id, member.sample_index]
        id = f"{round}/{own.problem.id}/{member.sample_index}"
        return own, prompter.example(id, own.problem, own.token_ids, weight)

    if not cfg.train.objective.is_reinforcement:
        right = [own.member for own in judged if own.member.status is Status.CORRECT]
        return [example(member, 1.0)[1] for member in right]
    lessons, _ = choose_lessons(cfg.train.objective, round, Groups(judged), start.version)
    made = []
    for lesson in lessons:
        own, plain = example(lesson.member, lesson.weight)
        temperature = lesson.member.temperature
        made.append(
            replace(
                plain, old_logprobs=own.logprobs, temperature=temperature, group=lesson.group,
                role=lesson.role,
            )
        )  # fmt: skip
    return made


def config_of(cfg: Config, arm: str, seed: int, out: Path) -> Config:
    """The config of an arm; its objective alone differs."""
    name = "grpo" if arm in CONTROLS else arm
    given = cfg.train.objective
    update: dict[str, Any] = {"name": name}
    if name == "imitation":
        update |= {"num_steps": None, "max_refills": 0}
    objective = given.model_copy(update=update)
    train = cfg.train.model_copy(
        update={"objective": objective, "num_workers": 1, "resident": False}
    )
    own = {"train": train, "run_dir": str(out / f"{arm}-{seed}"), "seed": seed}
    return cfg.model_copy(update=own)


def batch_size(cfg: Config, examples: Sequence[Example], num_steps: int) -> Config:
    """Imitation takes as many steps as the others."""
    if cfg.train.objective.is_reinforcement:
        return cfg
    size = max(1, math.ceil(len(examples) / num_steps))
    return cfg.model_copy(update={"train": cfg.train.model_copy(update={"batch_size": size})})


class Arm:
    """One objective or control of one seed, as far as it has come."""

    def __init__(self, cfg: Config, name: str, seed: int, out: Path) -> None:
        self._num_steps = cfg.train.objective.steps or 1
        self._cfg = config_of(cfg, name, seed, out)
        self._change = CONTROLS.get(name)
        self._results = Results(out, name, seed)
        self._tokens = [0, 0]
        self._seed = seed
        self.weights = Weights(0, cfg.model.path)
        shutil.rmtree(self._cfg.run_dir, ignore_errors=True)

    def do_round(self, t: int, judged: Sequence[Judged]) -> None:
        """Learn from what these weights answered in round `t`."""
        controlled = self._change and (lambda m, c: control(make_groups(m, c), self._change))
        reinforcing.make_groups = controlled or make_groups
        examples = learn_from(self._cfg, t, judged, self.weights)
        cfg = batch_size(self._cfg, examples, self._num_steps)
        plan = pack(examples, cfg.train, stream(self._seed, t, "pack"))
        self.weights, values, report = fit(cfg, plan, self.weights)
        self._tokens[0] += sum(own.member.num_tokens for own in judged)
        self._tokens[1] += report.num_target_tokens
        self.say(
            event="round", round=t, num_examples=report.num_examples, num_steps=report.num_steps,
            sampled_tokens=self._tokens[0], trained_tokens=self._tokens[1], **describe(judged),
            **{key: values[key] for key in SHOWN if key in values},
        )  # fmt: skip

    def say(self, **values: Any) -> None:
        self._results.say(**values)


def run_seed(cfg: Config, seed: int, sampling: Sampling, problems: Sequence[Problem],
             heldout: Sequence[Problem], args: argparse.Namespace) -> None:  # fmt: skip
    """All arms side by side, so that what was printed at any time compares them."""
    arms = [Arm(cfg, name, seed, Path(args.out)) for name in args.arms]
    explore = cfg.explore
    for t in range(1, args.rounds + 2):
        asked = stream(seed, t, "explore").sample(list(problems), explore.num_problems)
        common: list[Judged] = []  # in the first round all arms have the same weights
        for arm in arms:
            judged = common or sampling.sample(
                arm.weights, asked, explore.num_samples, t, 1000 * seed + t
            )
            common = judged if t == 1 else []
            if t <= args.rounds:
                arm.do_round(t, judged)
            else:
                arm.say(event="last", round=t, **describe(judged))
    for arm in arms if args.evaluate else ():
        arm.say(event="heldout", **evaluate(sampling, arm.weights, heldout, cfg))


def describe(judged: Sequence[Judged]) -> dict[str, float]:
    length = sum(len(own.token_ids) for own in judged) / len(judged)
    return {"reward": mean_reward(judged), "length": length}


def fit(cfg: Config, plan: Any, start: Weights) -> tuple[Weights, dict[str, Any], Any]:
    """The new weights, what the last step came to, and the report."""
    steps: list[dict[str, Any]] = []
    engine = TrainEngine(cfg)
    listen = lambda event: steps.append(event) if "step" in event else None  # noqa: E731
    report = engine.fit(plan, start, start.version + 1, listen)
    engine.settle()
    engine.close()
    return report.weights, steps[-1], report


def evaluate(
    sampling: Sampling, weights: Weights, heldout: Sequence[Problem], cfg: Config
) -> dict[str, float]:
    """Shares of the held-out problems, and how often each was solved."""
    greedy = sampling.sample(weights, heldout, 0, 0, 0)
    k = cfg.evaluate.k
    sampled = sampling.sample(weights, heldout, k, 0, 0)
    right = [sum(is_right(j) for j in sampled[i * k : (i + 1) * k]) for i in range(len(heldout))]
    return {
        "greedy": mean_reward(greedy),
        "mean": mean_reward(sampled),
        "pass_at_k": sum(pass_at_k(k, n, k) for n in right) / len(right),
        "solved": "".join(map(str, right)),  # type: ignore[dict-item]
        "solved_greedily": "".join(str(int(is_right(j))) for j in greedy),  # type: ignore[dict-item]
    }


def is_right(judged: Judged) -> bool:
    return judged.member.status is Status.CORRECT


def mean_reward(judged: Sequence[Judged]) -> float:
    return sum(map(is_right, judged)) / len(judged)


@dataclass(frozen=True)
class Results:
    """Lines on the screen and in a file."""

    out: Path
    arm: str
    seed: int

    def say(self, **values: Any) -> None:
        line = json.dumps({"arm": self.arm, "seed": self.seed, **values})
        print(line, flush=True)
        with (self.out / "results.jsonl").open("a") as file:
            file.write(line + "\n")


def read_problems(source: SourceConfig, seed: int, folder: Path) -> list[Problem]:
    split: Any = source.split
    made = make_puzzles(split, source.num or 0, seed, source.extra_cells)
    return [
        Problem(p.id, p.question, p.answer, (str(write_picture(p, folder)),), p.family,
                AnswerType.NUMBER)
        for p in made
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--arms", nargs="+", default=["grpo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", default="runs/objectives")
    parser.add_argument("--evaluate", action="store_true", help="ask held-out problems at the end")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of CONFIG")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cfg = load_config(args.config, args.set)
    zero.join_group(0, 1, dist.HashStore(), cfg.train.model_copy(update={"gpus_per_worker": 0}))
    problems, heldout = (
        read_problems(getattr(cfg.data, part), cfg.seed, Path(args.out) / "pictures")
        for part in ("train", "heldout")
    )
    sampling = Sampling(cfg)
    for seed in args.seeds:
        run_seed(cfg, seed, sampling, problems, heldout, args)
    zero.leave_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
