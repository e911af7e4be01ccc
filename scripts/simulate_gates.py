#!/usr/bin/env python
"""How often the gates err: `python scripts/simulate_gates.py [--runs 1000] [--margin 2.75]`.

Simulates runs of the base and five rounds whose model stays as good as it is (false alarms), or
whose last round truly falls (falls that are found), and asks the real gates, all twelve of them.
Each problem has a difficulty of its own, so the answers of two rounds to it correlate; k samples
are drawn of it beside the greedy answer. The tables of docs/gates.md are its output.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from virgo_ray.config import GatesConfig
from virgo_ray.ledger.gates import failures
from virgo_ray.records import Evaluation, Round, Weights

NUM_ROUNDS = 5
SIZES = (50, 100, 200, 500, 1000)
CORRELATIONS = (0.3, 0.6, 0.8)
FALLS = (0.05, 0.10, 0.15, 0.20)
PASS_AT_1, PERCEPTION, TEXT, BLANK = 0.8, 0.9, 0.6, 0.1  # true accuracies
K = 8


@dataclass(frozen=True)
class World:
    """How many held-out problems there are, and how alike two rounds' answers to one are."""

    num: int
    correlation: float

    def difficulties(self, accuracy: float, rng: np.random.Generator) -> np.ndarray:
        """The chance to solve each problem: (num,), of a beta distribution."""
        total = 1.0 / self.correlation - 1.0
        return rng.beta(accuracy * total, (1.0 - accuracy) * total, size=self.num)


def simulate_run(world: World, fall: float, rng: np.random.Generator) -> Iterator[Evaluation]:
    """The evaluations of a run; the last one's true pass@1 is lower by `fall`."""
    chances = {
        "pass_at_1": world.difficulties(PASS_AT_1, rng),
        "perception_pass_at_1": world.difficulties(PERCEPTION, rng),
        "text_pass_at_1": world.difficulties(TEXT, rng),
        "blank_image_pass_at_1": world.difficulties(BLANK, rng),
    }
    for t in range(NUM_ROUNDS):
        kept = 1.0 - fall / PASS_AT_1 if t == NUM_ROUNDS - 1 else 1.0
        yield answer({**chances, "pass_at_1": chances["pass_at_1"] * kept}, rng)


def answer(chances: dict[str, np.ndarray], rng: np.random.Generator) -> Evaluation:
    """One round's answers, measured."""
    solved = {name: rng.random(len(chance)) < chance for name, chance in chances.items()}
    num_right = rng.binomial(K, chances["pass_at_1"])
    solved |= {"pass_at_k": num_right > 0, "maj_at_k": num_right > K // 2}
    num = len(num_right)
    figures = {name: float(np.mean(flags)) for name, flags in solved.items()}
    counts = {"num_problems": num, "num_perception": num, "num_text": num, "num_blank": num}
    shares = {"truncated_share": 0.02, "repetitive_share": 0.0, "no_answer_share": 0.02}
    flags = {name: "".join("01"[int(x)] for x in values) for name, values in solved.items()}
    return Evaluation(
        **figures, **counts, **shares, k=K, distinct_share=0.9, mean_thought_tokens=110.0,
        long_format_share=1.0, not_judged_share=0.0, solved=flags,
    )  # fmt: skip


def judge_run(cfg: GatesConfig, evaluations: Sequence[Evaluation]) -> list[set[str]]:
    """The gates that each round fails; a failed round is no reference for later ones."""
    kept: list[Round] = []
    found: list[set[str]] = []
    for t, evaluation in enumerate(evaluations):
        failed = {failure.gate for failure in failures(cfg, evaluation, kept)}
        found.append(failed)
        if not failed:
            weights = Weights(t + 1, f"weights/v{t + 1:04d}")
            kept.append(Round(t, weights, evaluation=evaluation))
    return found


def false_alarms(cfg: GatesConfig, world: World, num_runs: int) -> float:
    """The share of unchanged runs of which any round fails any gate."""
    rng = np.random.default_rng(0)
    runs = (judge_run(cfg, list(simulate_run(world, 0.0, rng))) for _ in range(num_runs))
    return sum(any(run) for run in runs) / num_runs


def found_falls(cfg: GatesConfig, world: World, fall: float, num_runs: int) -> tuple[float, float]:
    """The shares of fallen last rounds that fail the gate of pass@1, and any gate."""
    rng = np.random.default_rng(1)
    last = [judge_run(cfg, list(simulate_run(world, fall, rng)))[-1] for _ in range(num_runs)]
    by_pass_at_1 = sum("max_pass_at_1_fall" in failed for failed in last)
    return by_pass_at_1 / num_runs, sum(map(bool, last)) / num_runs


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the gates err, as tables.")
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs for each figure")
    parser.add_argument("--margin", type=float, default=None, help="gates.margin, if not as set")
    args = parser.parse_args()
    cfg = GatesConfig() if args.margin is None else GatesConfig(margin=args.margin)
    heads = " | ".join(f"fall of {100 * fall:.0f} points" for fall in FALLS)
    print(f"| held-out problems | correlation | false alarms of a whole run | {heads} |")
    print("|---|---|---|" + "---|" * len(FALLS))
    for num in SIZES:
        for correlation in CORRELATIONS:
            world = World(num, correlation)
            falls = [found_falls(cfg, world, fall, args.runs) for fall in FALLS]
            cells = " | ".join(f"{100 * one:.0f} % ({100 * any_:.0f} %)" for one, any_ in falls)
            alarms = 100 * false_alarms(cfg, world, args.runs)
            print(f"| {num:,} | {correlation} | {alarms:.1f} % | {cells} |", flush=True)


if __name__ == "__main__":
    main()
