"""Fits of reinforcement for real: DeepSpeed on a small Qwen2.5-VL, on one rank and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import objective_ranks
import pytest
import small_model
import torch
import torch.distributed as dist
from objective_ranks import OBJECTIVES, SAMPLED, TEMPERATURE, TWO_RANKS, Interrupted, config, fit

from virgo_ray.errors import TrainingError
from virgo_ray.model.prompts import Prompter
from virgo_ray.train.batch import Batcher
from virgo_ray.train.model import load_model
from virgo_ray.train.reference import read_start, write_start

RANKS_DEADLINE_S = 300.0
NOISE = 0.05  # nats between sampler and trainer
WHAT_IT_DOES = ("loss", "grad_norm", "entropy", "ratio_mean", "start_kl", "sampler_gap",
                "effective_share", "positive_share", "dropped_share", "margin_mean",
                "preferred_share", "chosen_logratio", "rejected_logratio")  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Path:
    path = tmp_path_factory.mktemp("objectives")
    small_model.build(path / "model")
    objective_ranks.draw_images(path)
    noise = torch.Generator().manual_seed(0)
    sampled = {
        id: (values + NOISE * torch.randn(len(values), generator=noise)).tolist()
        for id, values in direct_logprobs(path).items()
    }
    (path / SAMPLED).write_text(json.dumps(sampled))
    return path


def direct_logprobs(path: Path) -> dict[str, torch.Tensor]:
    """By plain torch: all logits over the temperature, the ids of pictures left out."""
    cfg = config(path, "direct", OBJECTIVES["grpo"], 1)
    model: Any = load_model(cfg.model.path, cfg.model).eval()
    batcher = Batcher(cfg.model.path, cfg.model, torch.device("cpu"))
    banned = sorted(Prompter(cfg.model, cfg.prompt).placeholder_ids)
    found = {}
    for example in objective_ranks.make_examples(path, cfg):
        if example.group:
            batch = batcher.collate([replace(example, old_logprobs=())])
            with torch.no_grad():
                hidden = model.model(**batch.inputs).last_hidden_state.flatten(0, 1)
                logits = model.lm_head(hidden[batch.places]).float() / TEMPERATURE
            logits[:, banned] = -torch.inf
            chosen = logits.log_softmax(-1).gather(-1, batch.targets[:, None])
            found[example.id] = chosen.squeeze(-1)
    return found


@pytest.fixture(scope="module")
def two_ranks(directory: Path) -> Iterator[Any]:
    """Two gloo ranks that work beside this one; call it for what they reported."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, objective_ranks.__file__, str(rank), str(store.port), str(directory)],
            stderr=(directory / f"rank{rank}.log").open("w"), env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip

    def results() -> dict[str, Any]:
        for rank, process in enumerate(processes):
            code = process.wait(timeout=RANKS_DEADLINE_S)
            assert code == 0, (directory / f"rank{rank}.log").read_text()[-3000:]
        return json.loads((directory / "results.json").read_text())

    yield results
    for process in processes:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def whole(directory: Path, two_ranks: Any) -> dict[str, list[dict[str, Any]]]:
    """What every objective reports on one rank in one micro-batch a step."""
    return {
        name: fit(directory, config(directory, name, raw, 1)) for name, raw in OBJECTIVES.items()
    }


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() >= {"loss", "grad_norm"}
        for key in ours.keys() & set(WHAT_IT_DOES):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=2e-5), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_moves_the_weights_in_as_many_steps_as_asked(whole, name):
    assert len(whole[name]) == OBJECTIVES[name].get("num_steps", 1)
    assert all(step["grad_norm"] > 0 for step in whole[name])


def test_ratios_begin_at_1_where_the_trainer_scored_its_start_weights(whole):
    first, second = whole["grpo"]
    assert first["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert first["clip_share"] == 0.0 and first["start_kl"] < 1e-10
    assert second["ratio_mean"] != 1.0 and second["start_kl"] > 1e-6
    assert first["sampler_gap"] == pytest.approx(NOISE * (2 / torch.pi) ** 0.5, rel=0.15)


def test_pairs_begin_at_a_margin_of_nothing(whole):
    first = whole["dpo"][0]
    assert first["margin_mean"] == pytest.approx(0.0, abs=1e-4)
    assert whole["dpo"][1]["margin_mean"] != 0.0


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("grpo", {"micro_batch_tokens": 80, "zero_stage": 2}),
        ("gspo", {"micro_batch_tokens": 80}),
        ("rloo", {"micro_batch_tokens": 80, "packing": False}),
        ("dpo", {"micro_batch_tokens": 160, "zero_stage": 2}),
    ],
)
def test_an_objective_is_the_same_in_many_micro_batches(directory, whole, name, spread):
    cfg = config(directory, f"ragged_{name}", OBJECTIVES[name], 1, **spread)
    plan = objective_ranks.make_plan(directory, cfg)
    assert len(plan.steps[0][0]) > 1
    assert_same(fit(directory, cfg), whole[name])


@pytest.mark.parametrize("name", TWO_RANKS)
def test_an_objective_is_the_same_on_two_ranks_in_every_stage(two_ranks, whole, name):
    assert_same(two_ranks()[name], whole[TWO_RANKS[name][0]])


def test_steps_are_filled_up_to_the_ranks_with_what_has_no_loss(directory):
    cfg = config(directory, "filled", OBJECTIVES["grpo"], 2)
    plan = objective_ranks.make_plan(directory, cfg)
    sizes = [sum(len(micro) for rank in step for micro in rank) for step in plan.steps]
    used = [plan.examples[i] for step in plan.steps for r in step for m in r for i in m]
    assert sizes == [6, 6] and sum(example.is_filler for example in used) == 1


# -- an interrupted fit ----------------------------------------------------------------------------


def begin(directory: Path, name: str) -> tuple[Any, Path]:
    """A fit of three steps, cut off after the second; its config and its start log-probabilities"""
    raw = OBJECTIVES["grpo"] | {"num_steps": 3}
    cfg = config(directory, name, raw, 1, checkpoint_every_s=1e-9, zero_stage=2)
    with pytest.raises(Interrupted):
        fit(directory, cfg, stop_at=2)
    (path,) = (directory / name / "checkpoints").rglob("start_*.safetensors")
    return cfg, path


def test_an_interrupted_fit_goes_on_with_the_losses_and_the_start_that_it_had(directory, whole):
    raw = OBJECTIVES["grpo"] | {"num_steps": 3}
    whole_fit = fit(directory, config(directory, "undisturbed", raw, 1, zero_stage=2))
    cfg, path = begin(directory, "interrupted")
    before, values = path.stat(), read_start(path)
    assert all(torch.isfinite(v).all() for v in values.values())
    with pytest.raises(Interrupted):
        fit(directory, cfg, stop_at=3)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    seen = fit(directory, cfg)
    losses = {step["step"]: step["loss"] for step in seen}
    assert losses == {step["step"]: step["loss"] for step in whole_fit}
    assert not path.exists()  # published


def test_a_fit_whose_start_is_lost_or_damaged_does_not_go_on(directory, whole):
    cfg, path = begin(directory, "lost")
    values = read_start(path)
    path.rename(path.with_suffix(".aside"))
    with pytest.raises(TrainingError, match="is missing, expected the log-probabilities under"):
        fit(directory, cfg)
    changed = {place: tensor + 0.1 for place, tensor in values.items()}
    write_start(path, changed)
    content = path.read_bytes()
    path.with_suffix(".aside").rename(path)
    header = path.read_bytes()[: -4 * sum(len(v) for v in values.values())]
    path.write_bytes(header + content[len(header) :])
    with pytest.raises(TrainingError, match=r"is damaged \(its values have sha256"):
        fit(directory, cfg)


def test_seed_thoughts_alone_are_imitated_whatever_the_objective(directory, whole):
    losses = []
    for name, raw in (("seeds_grpo", OBJECTIVES["grpo"]), ("seeds_plain", "imitation")):
        cfg = config(directory, name, raw, 1, batch_size=2)
        with pytest.MonkeyPatch.context() as patch:
            made = objective_ranks.make_examples
            patch.setattr(
                objective_ranks, "make_examples",
                lambda *a, made=made: [e for e in made(*a) if not e.group],
            )  # fmt: skip
            losses.append([step["loss"] for step in fit(directory, cfg)])
    assert losses[0] == losses[1]


def test_start_log_probabilities_are_those_of_plain_torch(directory, whole):
    _, path = begin(directory, "start_values")
    cfg = config(directory, "start_values", OBJECTIVES["grpo"] | {"num_steps": 3}, 1)
    examples = objective_ranks.make_plan(directory, cfg).examples
    direct = direct_logprobs(directory)
    found = read_start(path)
    assert len(found) == len(direct) == 9
    for place, values in found.items():
        torch.testing.assert_close(values, direct[examples[place].id], rtol=0, atol=2e-5)
