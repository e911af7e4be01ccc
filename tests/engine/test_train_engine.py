"""The training engine for real: DeepSpeed on a small Qwen2.5-VL, on one rank and on two.

The two ranks run all their scenarios in one go (`train_ranks.py`), because starting them is what
takes time; the single rank of this process is what they are compared with.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
import torch.distributed as dist
import train_ranks
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from virgo_ray.config import Config
from virgo_ray.errors import DataError, TrainingError, WeightsError
from virgo_ray.model.images import load_image
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import FitReport, Plan, Problem, Weights
from virgo_ray.train import feed, learning, loading, optimizer, publishing, zero
from virgo_ray.train.batch import Batcher
from virgo_ray.train.checkpoint import CheckpointStore, Position
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.loss import TargetLogprobs, weighted_nll
from virgo_ray.train.memory import describe, largest_micro_batch
from virgo_ray.train.model import load_model, prepare, restore_rotary_frequencies
from virgo_ray.train.pack import num_target_tokens, step_examples
from virgo_ray.train.probing import choose_start
from virgo_ray.weights.layout import read_layout
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path

RANKS_DEADLINE_S = 400.0
CPU = torch.device("cpu")
VISION = ("visual.patch_embed", "visual.blocks")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train")
    small_model.build(path / "model")
    train_ranks.draw_images(path)
    return path


@pytest.fixture(scope="module")
def start(directory: Path) -> Weights:
    return Weights(0, str(directory / "model"))


@pytest.fixture(scope="module")
def two_ranks(directory: Path) -> Iterator[Any]:
    """Started before anything else of this file needs them; call it for their results."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    script = str(Path(__file__).with_name("train_ranks.py"))
    logs = [(directory / f"rank{rank}.log").open("w") for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(store.port), str(directory)],
            stdout=logs[rank],
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in range(2)
    ]

    def results() -> dict[str, Any]:
        for rank, process in enumerate(ranks):
            code = process.wait(timeout=RANKS_DEADLINE_S)
            assert code == 0, (directory / f"rank{rank}.log").read_text()[-3000:]
        return json.loads((directory / "results.json").read_text())

    yield results
    for process in ranks:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def single(directory: Path, two_ranks: Any, one_rank: None) -> Path:
    """This process as a group of one rank."""
    return directory


def config(directory: Path, name: str, **train: Any) -> Config:
    return train_ranks.config(directory, name, 1, **train)


def fit(cfg: Config, plan: Plan, start: Weights) -> tuple[FitReport, list[float]]:
    events: list[dict[str, Any]] = []
    report = train_ranks.fit_whole(TrainEngine(cfg), plan, start, 1, events.append)
    return report, [e["loss"] for e in events if "step" in e]


@pytest.fixture(scope="module")
def fitted(single: Path, start: Weights) -> tuple[FitReport, list[float]]:
    cfg = config(single, "single")
    return fit(cfg, train_ranks.plan(single, cfg), start)


def losses_of(result: dict[str, Any]) -> list[float]:
    return [loss for _, loss in sorted((int(k), v) for k, v in result["losses"].items())]


# -- one rank ------------------------------------------------------------------------------------


def test_a_fit_learns_and_reports_what_it_did(single, fitted):
    report, losses = fitted
    assert losses[-1] < losses[0]
    assert (report.first_loss, report.last_loss) == (losses[0], losses[-1])
    assert report.num_steps == len(losses) == 6
    assert report.num_examples == 24
    assert report.resumed_from_step == 0


def test_the_published_checkpoint_loads_in_plain_transformers_with_the_trainers_logprobs(fitted):
    path = Path(fitted[0].weights.path)
    check_weights(path)
    probe = Probe.load(path / "probe.json")
    assert {item.image is None for item in probe.items} == {True, False}
    assert worst_difference(path, probe) < 1e-4


def test_frozen_vision_weights_are_published_bit_for_bit(directory, fitted):
    before = load_file(directory / "model" / "model.safetensors")
    after = load_file(Path(fitted[0].weights.path) / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(VISION) for name in changed)
    assert any(name.startswith("visual.merger") for name in changed)
    assert "model.embed_tokens.weight" in changed


def test_an_untied_output_layer_is_published(single):
    small_model.build(single / "untied", tied=False)
    raw = config(single, "untied_run", num_epochs=0.1).model_dump()
    raw["model"]["path"] = str(single / "untied")
    cfg = Config.model_validate(raw)
    report, _ = fit(cfg, train_ranks.plan(single, cfg), Weights(0, str(single / "untied")))
    path = Path(report.weights.path)
    assert "lm_head.weight" in load_file(path / "model.safetensors")
    assert worst_difference(path, Probe.load(path / "probe.json")) < 1e-4


def test_the_base_models_probe_agrees_with_plain_transformers(single, start):
    cfg = config(single, "single")
    engine = TrainEngine(cfg)
    problem = Problem("p", "what is 1 + 3 ?", "4", (str(single / "0.png"),))
    prompter = Prompter(cfg.model, cfg.prompt)
    items = choose_start(300, cfg.model.max_length, prompter, [problem], [], single)
    engine.probe_base(start, items)
    probe = Probe.load(probe_path(Path(cfg.run_dir) / "weights", 0))
    assert {item.image is None for item in probe.items} == {True, False}
    assert worst_difference(Path(start.path), probe) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_probed_with_its_parameters_in_host_memory(single, start, dtype):
    """An engine for scoring: it has no optimizer, and its parameters are offloaded."""
    items = [ProbeItem(tuple(range(1, 20)), tuple(range(30, 60)), None)]
    found = []
    for name, offload in (("plain", "none"), ("offloaded", "optimizer_and_parameters")):
        cfg = config(single, f"base_{name}_{dtype}", zero_stage=3, offload=offload)
        in_dtype = cfg.model.model_copy(update={"dtype": dtype})
        engine = TrainEngine(cfg.model_copy(update={"model": in_dtype}))
        found.append(Probe.load(engine.probe_base(start, items)).logprobs)
    assert found[0] == found[1]


def test_the_probe_of_adapters_is_that_of_the_merged_and_rounded_weights(single, start):
    cfg = config(single, "lora_bfloat16", lora={"rank": 4}, num_epochs=1.0)
    in_bfloat16 = cfg.model.model_copy(update={"dtype": "bfloat16"})
    cfg = cfg.model_copy(update={"model": in_bfloat16})
    report, _ = fit(cfg, train_ranks.plan(single, cfg), start)
    probe = Probe.load(Path(report.weights.path) / "probe.json")
    events: list[dict[str, Any]] = []
    weights = Weights(0, report.weights.path)
    plain = TrainEngine(cfg).probe_base(weights, probe.items, events.append)
    assert sum(e.get("phase") == "probe" for e in events) == len(
        probe.items
    )  # progress, each of them
    assert Probe.load(plain).logprobs == probe.logprobs


def test_without_images_in_the_plan_the_probe_still_asks_about_one(single, start):
    cfg = config(single, "text_only", num_epochs=0.1)
    text_only = [e for e in train_ranks.examples(single, cfg) if not e.images]
    plan = train_ranks.pack(text_only, cfg.train, train_ranks.random.Random(0))
    report, _ = fit(cfg, plan, start)
    probe = Probe.load(Path(report.weights.path) / "probe.json")
    assert [item.image is None for item in probe.items] == [True] * len(text_only) + [False]


def test_a_non_finite_loss_raises_and_publishes_nothing(single, start):
    cfg = config(single, "nan")
    plan = train_ranks.plan(single, cfg)
    bad = replace(plan, examples=tuple(replace(e, weight=float("nan")) for e in plan.examples))
    with pytest.raises(TrainingError, match="loss is nan at optimizer step 1 of 6"):
        fit(cfg, bad, start)
    assert not (Path(cfg.run_dir) / "weights" / "v0001").exists()


def test_an_unreadable_picture_ends_a_fit_at_its_own_step_and_no_thread_stays(single, start):
    cfg = config(single, "unreadable")
    plan = train_ranks.plan(single, cfg)
    steps = [list(step[0]) for step in plan.steps]
    last = max(number for number, step in enumerate(steps) if any(0 in batch for batch in step))
    lost = replace(plan.examples[0], images=("nowhere.png",))
    steps[last] = [tuple(len(plan.examples) if i == 0 else i for i in b) for b in steps[last]]
    broken = replace(
        plan, examples=(*plan.examples, lost), steps=tuple((tuple(step),) for step in steps)
    )
    events: list[dict[str, Any]] = []
    with pytest.raises(DataError, match=r"nowhere\.png"):
        TrainEngine(cfg).fit(broken, start, 1, events.append)
    done = [event for event in events if "step" in event]
    assert last > 2
    assert [event["step"] for event in done] == list(range(1, last + 1))
    assert all(event["collate_share"] > 0 and 0 < event["wait_share"] < 1 for event in done)
    assert not [t for t in threading.enumerate() if t.name.startswith(feed.THREAD_NAME)]


def test_memory_that_runs_out_is_named_at_once_with_its_micro_batch(single, start, monkeypatch):
    cfg = config(single, "out_of_memory")
    plan = train_ranks.plan(single, cfg)

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(zero.ZeroEngine, "backward", run_out)
    with pytest.raises(TrainingError) as caught:
        fit(cfg, plan, start)
    tried = describe(plan, largest_micro_batch(plan, 0, is_packed=True), is_packed=True)
    assert "largest micro-batch, tried before step 1" in str(caught.value)
    assert f"{tried}, on rank 0" in str(caught.value)
    for way in ("train.micro_batch_tokens=80", "train.gradient_checkpointing=true"):
        assert way in str(caught.value)


@pytest.mark.parametrize("dtype, stage", [("float32", 0), ("bfloat16", 2), ("bfloat16", 3)])
def test_a_gradient_norm_that_is_no_number_moves_nothing(single, start, monkeypatch, dtype, stage):
    raw = config(single, f"norm_{dtype}_{stage}", zero_stage=stage).model_dump()
    raw["model"]["dtype"] = dtype
    cfg = Config.model_validate(raw)
    plan = train_ranks.plan(single, cfg)
    moved: list[int] = []

    def of_nan_gradient(logprobs: torch.Tensor, *rest: Any) -> torch.Tensor:
        loss = weighted_nll(logprobs, *rest)
        if len(losses) < 2:
            return loss
        return loss + ((logprobs - logprobs.detach()).sqrt() * 0.0).sum()  # 0, its slope 0 x inf

    losses: list[float] = []
    monkeypatch.setattr(learning, "weighted_nll", of_nan_gradient)
    monkeypatch.setattr(optimizer, "adam", lambda *_, **__: moved.append(len(losses)))
    with pytest.raises(TrainingError, match="gradient norm is nan at optimizer step 3 of 6"):
        TrainEngine(cfg).fit(
            plan, start, 1, lambda e: losses.append(e.get("loss")) if "step" in e else None
        )
    assert {0, 1} <= set(moved) and 2 not in moved
    assert not (Path(cfg.run_dir) / "weights" / "v0001").exists()


def test_a_fit_leaves_no_model_behind_in_memory(single, start, monkeypatch):
    made: list[weakref.ref[Any]] = []

    class Watched(TargetLogprobs):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr(loading, "TargetLogprobs", Watched)
    cfg = config(single, "left_behind", num_epochs=0.1)
    fit(cfg, train_ranks.plan(single, cfg), start)
    assert [ref() for ref in made] == [None]


def test_what_publishing_meets_is_raised_by_settle_and_costs_no_checkpoint(
    single, start, monkeypatch
):
    cfg = config(single, "unpublished", checkpoint_every_s=1e-9)
    plan = train_ranks.plan(single, cfg)

    def refuse(*_: Any) -> None:
        raise WeightsError("no space is left")

    trainer = TrainEngine(cfg)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish", refuse)
        trainer.fit(plan, start, 1)
        assert trainer.open_push(2, "ipc", "127.0.0.1", ["a"], 60.0) is None
        with pytest.raises(WeightsError, match="no space is left"):
            trainer.settle()
    assert trainer.open_push(1, "ipc", "127.0.0.1", ["a"], 60.0) is None, "its tensors are let go"
    trainer.settle()
    report = trainer.fit(plan, start, 1)
    assert report.resumed_from_step == 5
    assert (Path(cfg.run_dir) / "checkpoints" / "round_fit_v0001").exists()
    trainer.settle()
    assert check_weights(report.weights.path).version == 1
    assert not list(Path(cfg.run_dir).glob("checkpoints/*"))


def test_large_models_are_updated_a_group_at_a_time_with_the_same_losses(
    single, start, monkeypatch, fitted
):
    monkeypatch.setattr(zero, "UPDATE_ELEMENTS", 20_000)
    monkeypatch.setattr(optimizer, "CHUNK_ELEMENTS", 1_000)
    for stage in (2, 3):
        cfg = config(single, f"groups_{stage}", zero_stage=stage)
        _, losses = fit(cfg, train_ranks.plan(single, cfg), start)
        assert losses == pytest.approx(fitted[1], abs=2e-5)


@pytest.mark.parametrize(
    "change, why",
    [({"lr": 1e-4}, "with another `train` section"), ({}, "is damaged")],
)
def test_published_weights_are_reused_only_whole_and_for_the_same_training(
    single, start, fitted, tmp_path, change, why
):
    run_dir = tmp_path / "run"
    shutil.copytree(Path(fitted[0].weights.path).parents[1], run_dir)
    cfg = config(single, "single", **change).model_copy(update={"run_dir": str(run_dir)})
    plan = train_ranks.plan(single, cfg)
    weights = run_dir / "weights" / "v0001" / "model.safetensors"
    if not change:
        data = bytearray(weights.read_bytes())
        data[-1000] ^= 1
        weights.write_bytes(data)
    before = weights.read_bytes()
    events: list[dict[str, Any]] = []
    report = train_ranks.fit_whole(TrainEngine(cfg), plan, start, 1, events.append)
    (notice,) = [e["notice"] for e in events if "notice" in e]
    assert why in notice and "is trained again" in notice
    (aside,) = run_dir.glob("weights/*-v0001-1")
    assert aside.name in notice and (aside / "model.safetensors").read_bytes() == before
    assert len([e for e in events if "step" in e]) == 6
    assert (report.last_loss == fitted[0].last_loss) == (not change)


def test_a_fit_that_was_changed_half_way_says_so_and_keeps_both_checkpoints(single, start):
    def run(stop_at: int, **train: Any) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []

        def listen(event: dict[str, Any]) -> None:
            events.append(event)
            if event.get("step") == stop_at:
                raise train_ranks.Interrupted

        cfg = config(single, "changed", checkpoint_every_s=1e-9, **train)
        with contextlib.suppress(train_ranks.Interrupted):
            train_ranks.fit_whole(TrainEngine(cfg), train_ranks.plan(single, cfg), start, 1, listen)
        return events

    run(5)
    changed = run(3, lr=1e-4)
    (notice,) = [e["notice"] for e in changed if "notice" in e]
    assert "step_000004 was made with other" in notice
    assert "Its 4 steps are done again, about 0 minutes" in notice
    back = run(99)
    assert [e["step"] for e in back if "step" in e] == [1, 2, 3, 4, 5, 6]
    assert not [e for e in back if "notice" in e]
    assert not list((single / "changed").glob("checkpoints/*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_step_of_the_optimizer_is_its_first(single: Path, dtype: torch.dtype, stage: int):
    """DeepSpeed makes a step of zeros as it is built; Adam's bias correction must not count it."""
    train = config(single, "first").train.model_copy(update={"zero_stage": stage})
    model = torch.nn.Linear(8, 4).to(dtype)
    engine = zero.ZeroEngine(model, zero.zero_config(train, dtype, 8, is_training=True), train)
    engine.backward(engine(torch.ones(2, 8, dtype=dtype)).float().pow(2).sum())
    engine.step(1e-2, lambda norm: None)
    assert engine._base is not None
    assert {float(state["step"]) for state in engine._base.state.values()} == {1.0}
    engine.close()


def test_rotary_frequencies_are_not_rounded_where_zero3_loads_a_bfloat16_model(single, start):
    cfg = config(single, "rotary", zero_stage=3)
    expected = dict(load_model(start.path, cfg.model).named_buffers())
    settings = zero.zero_config(cfg.train, torch.bfloat16, 64, is_training=True)
    with zero.sharded_loading(settings):
        in_bfloat16 = cfg.model.model_copy(update={"dtype": "bfloat16"})
        found = dict(load_model(start.path, in_bfloat16).named_buffers())
    assert found.keys() == expected.keys() and len(found) == 4
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_plan_for_another_number_of_ranks_is_refused(single, start):
    plan = train_ranks.plan(single, train_ranks.config(single, "two", 2))
    with pytest.raises(TrainingError, match="for 2 ranks"):
        fit(config(single, "two"), plan, start)


# -- two ranks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(single: Path, fitted: Any, two_ranks: Any) -> dict[str, Any]:
    for name in train_ranks.TAKEN_OVER:
        train_ranks.run_part(single, name, 1, train_ranks.STOP_AT)
    (single / train_ranks.READY).touch()
    return two_ranks()


@pytest.mark.parametrize(
    "name", ["zero0", "zero1", "zero2", "zero3", "zero3_recomputing", "zero2_padded"]
)
def test_two_ranks_with_mixed_examples_have_the_losses_of_one(results, fitted, name):
    assert losses_of(results[name]) == pytest.approx(fitted[1], abs=2e-5)


@pytest.mark.parametrize(
    "name",
    ["zero2_interrupted", "zero3_interrupted", "lora_interrupted", "lora_zero3_interrupted"],
)
def test_an_interrupted_fit_ends_with_the_losses_of_an_uninterrupted_one(results, name):
    whole = results[name.removesuffix("_interrupted")]
    assert results[name]["report"]["resumed_from_step"] == train_ranks.STOP_AT - 1
    assert losses_of(results[name]) == pytest.approx(losses_of(whole), abs=1e-5)
    assert results[name]["report"]["first_loss"] == whole["report"]["first_loss"]


@pytest.mark.parametrize("name", [*train_ranks.HANDED_OVER, *train_ranks.TAKEN_OVER])
def test_another_number_of_ranks_ends_a_fit_with_the_losses_it_would_have_had(
    single, fitted, results, name
):
    is_handed = name in train_ranks.HANDED_OVER
    found = train_ranks.run_part(single, name, 1) if is_handed else results[name]
    assert found["report"]["resumed_from_step"] == train_ranks.STOP_AT - 1
    (notice,) = found["notices"]
    assert "goes on after step 3 of 6" in notice
    whole = {"lora": "lora", "lora_zero3": "lora_zero3"}.get(name.split("_", 1)[1])
    expected = losses_of(results[whole]) if whole else fitted[1]
    assert losses_of(found) == pytest.approx(expected, abs=1e-5)
    path = Path(found["report"]["weights"]["path"])
    assert worst_difference(path, Probe.load(path / "probe.json")) < 1e-4


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_trying_the_longest_micro_batch_first_changes_no_digit(results, stage):
    assert losses_of(results[f"zero{stage}_untried"]) == losses_of(results[f"zero{stage}"])


def test_a_damaged_checkpoint_is_refused_until_it_is_moved_aside(results):
    assert "is damaged" in results["damaged"]["refusal"]
    assert f"goes on from step {train_ranks.STOP_AT - 2}" in results["damaged"]["refusal"]
    assert results["damaged"]["report"]["resumed_from_step"] == train_ranks.STOP_AT - 2
    assert losses_of(results["damaged"]) == pytest.approx(losses_of(results["zero2"]), abs=1e-5)


@pytest.mark.parametrize("run", ["resident", "carried"])
def test_two_ranks_that_keep_their_model_publish_what_two_that_load_it_do(results, run):
    kept, loaded = results[run]["kept"], results[run]["loaded"]
    assert kept == loaded and len(kept["losses"]) > 1 and len(kept["files"]) > 4


def test_an_optimizer_that_two_ranks_carry_on_makes_another_fit(results):
    assert results["carried"]["kept"]["losses"][1:] != results["resident"]["kept"]["losses"][1:]


def test_checkpoints_are_gone_once_the_weights_are_published(directory, results):
    assert not list(directory.glob("*/checkpoints/*"))


def test_a_finished_fit_is_not_repeated(results):
    assert all(results[name]["again"] for name in train_ranks.SCENARIOS)


@pytest.mark.parametrize("name", list(train_ranks.SCENARIOS))
def test_what_two_ranks_publish_loads_in_plain_transformers(results, name):
    path = Path(results[name]["report"]["weights"]["path"])
    assert worst_difference(path, Probe.load(path / "probe.json")) < 1e-4


@pytest.mark.parametrize("name", ["lora", "lora_zero3", "lora_zero3_recomputing"])
def test_adapters_are_merged_into_the_language_model_only(directory, results, name):
    before = load_file(directory / "model" / "model.safetensors")
    after = load_file(Path(results[name]["report"]["weights"]["path"]) / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if "_proj.weight" in n and "visual" not in n}
    assert losses_of(results[name])[-1] < losses_of(results[name])[0]


# -- model, batches and checkpoints, without a group ----------------------------------------------


def test_the_gradient_of_micro_batches_is_that_of_the_whole_batch(directory):
    cfg = config(directory, "gradient", micro_batch_tokens=60)
    plan = train_ranks.plan(directory, cfg)
    assert len(plan.steps[0][0]) > 1
    num_tokens = num_target_tokens(plan, 0)
    one_by_one = gradient(directory, cfg, [[plan.examples[i] for i in m] for m in plan.steps[0][0]])
    at_once = gradient(directory, cfg, [list(step_examples(plan, 0))])
    assert num_tokens == sum(len(e.target_ids) for e in step_examples(plan, 0))
    torch.testing.assert_close(one_by_one, at_once, atol=1e-5, rtol=1e-4)


def gradient(directory: Path, cfg: Config, micro_batches: list[list[Any]]) -> torch.Tensor:
    model = load_model(str(directory / "model"), cfg.model)
    prepare(model, cfg.train)
    module = TargetLogprobs(model)
    batcher = Batcher(str(directory / "model"), cfg.model, CPU)
    num_tokens = sum(len(e.target_ids) for m in micro_batches for e in m)
    for examples in micro_batches:
        batch = batcher.collate(examples)
        logprobs = module(batch.inputs, batch.places, batch.targets)
        weighted_nll(logprobs, batch.weights, num_tokens).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_dummy_picture_runs_the_vision_tower_and_changes_nothing(directory):
    cfg = config(directory, "dummy")
    text_only = next(e for e in train_ranks.examples(directory, cfg) if not e.images)
    batch = Batcher(str(directory / "model"), cfg.model, CPU).collate([text_only])
    model = load_model(str(directory / "model"), cfg.model)
    seen: list[int] = []
    model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    logprobs = TargetLogprobs(model)(batch.inputs, batch.places, batch.targets)
    logprobs.sum().backward()
    ids = torch.tensor([[*text_only.prompt_ids, *text_only.target_ids]])
    logits = model(input_ids=ids).logits[0, len(text_only.prompt_ids) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-4)
    assert seen == [1]
    assert all(not p.grad.any() for p in model.model.visual.parameters())


def test_a_missing_image_is_an_error_that_names_it(directory):
    cfg = config(directory, "missing")
    example = train_ranks.examples(directory, cfg)[0]
    batcher = Batcher(str(directory / "model"), cfg.model, CPU)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        batcher.collate([replace(example, images=("nowhere.png",))])


def test_a_placeholder_without_its_image_is_an_error(directory):
    cfg = config(directory, "placeholder")
    example = train_ranks.examples(directory, cfg)[0]
    batcher = Batcher(str(directory / "model"), cfg.model, CPU)
    with pytest.raises(TrainingError, match="0 images and 1 placeholders"):
        batcher.collate([replace(example, images=())])


def test_an_adapter_pattern_that_matches_nothing_is_an_error(directory):
    cfg = config(directory, "pattern", lora={"target_modules": "no_such_layer"})
    with pytest.raises(TrainingError, match="'no_such_layer' matches no module"):
        prepare(load_model(str(directory / "model"), cfg.model), cfg.train)


def test_the_table_of_trainable_parameters_says_what_is_frozen(directory):
    cfg = config(directory, "table", freeze_connector=True)
    model = load_model(str(directory / "model"), cfg.model)
    table = {part.name: part for part in prepare(model, cfg.train)}
    assert table["vision tower"].num_trainable == table["connector"].num_trainable == 0
    assert table["language model"].num_trainable == table["language model"].num_parameters > 0
    assert sum(p.num_parameters for p in table.values()) == model.num_parameters()


@pytest.mark.parametrize("tied", [True, False])
def test_the_config_of_the_whole_model_says_whether_its_output_layer_is_tied(tmp_path, tied):
    small_model.build(tmp_path, tied=tied)
    model = load_model(str(tmp_path), config(tmp_path, "tied").model)
    assert not hasattr(model.config.get_text_config(), "tie_word_embeddings")
    layout = read_layout(tmp_path, False, "model")
    assert layout.tied == ({"lm_head.weight"} if tied else set())
    assert not (layout.missing or layout.reshaped or layout.extra)


def test_rotary_frequencies_that_were_rounded_are_float32_again(directory):
    cfg = config(directory, "rotary")
    model = load_model(str(directory / "model"), cfg.model)
    expected = {name: buffer.clone() for name, buffer in model.named_buffers()}
    names = sorted(model.state_dict())
    model.bfloat16()
    restore_rotary_frequencies(model)
    found = dict(model.named_buffers())
    assert len(expected) == 4 and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(model.state_dict()) == names


def test_a_frozen_vision_tower_is_not_run_backwards_when_activations_are_recomputed(directory):
    cfg = config(directory, "frozen", gradient_checkpointing=True)
    model = load_model(str(directory / "model"), cfg.model)
    prepare(model, cfg.train)
    asks_for_gradients = []
    for part in (model.model.visual.blocks[-1], model.model.visual.merger):
        part.register_forward_hook(lambda *a: asks_for_gradients.append(a[2].requires_grad))
    batch = Batcher(str(directory / "model"), cfg.model, CPU).collate(
        train_ranks.examples(directory, cfg)[:2]
    )
    logprobs = TargetLogprobs(model)(batch.inputs, batch.places, batch.targets)
    assert asks_for_gradients == [False, True]
    logprobs.sum().backward()
    assert model.model.language_model.layers[0].mlp.up_proj.weight.grad is not None
    assert model.model.visual.merger.mlp[0].weight.grad is not None


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "fit", "mine")
    for step in (1, 2, 3):
        store.begin(step)
        (store.temporary(step) / "part").write_text(f"step {step}")
        store.commit(Position("mine", step, 1.0, 0.5))
    assert sorted(p.name for p in store.path(3).parent.iterdir()) == ["step_000002", "step_000003"]
    assert store.latest() == Position("mine", 3, 1.0, 0.5)


def test_a_checkpoint_is_read_as_data_never_as_code(tmp_path):
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"module": Harm()}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(TrainingError, match="which no checkpoint of a trainer holds"):
        zero.load_as_data(str(tmp_path / "mp_rank_00_model_states.pt"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("limit", [4096, 200_000])
def test_a_full_disk_at_a_checkpoint_is_named_at_once(single, start, limit):
    cfg = config(single, f"full{limit}", checkpoint_every_s=1e-9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # stands for a full disk
    try:
        with pytest.raises(TrainingError, match=r"no checkpoint could be.*File too large.*intact"):
            fit(cfg, train_ranks.plan(single, cfg), start)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("shape", [(100_003,), (300, 101)])
def test_updates_in_chunks_are_torchs_to_the_last_bit(monkeypatch, shape):
    monkeypatch.setattr(optimizer, "CHUNK_ELEMENTS", 4096)
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    frugal = optimizer.FrugalAdamW([ours], lr=1e-3, weight_decay=0.1)
    plain = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.1)
    for scale in (1.0, 1e-3, 1e-6):
        ours.grad = torch.randn(shape) * scale
        theirs.grad = ours.grad.clone()
        frugal.step()
        plain.step()
    assert torch.equal(ours, theirs)
    for name, value in plain.state[theirs].items():
        assert torch.equal(frugal.state[ours][name], value)


# -- plain transformers, the judge of what was published -------------------------------------------


def worst_difference(path: Path, probe: Probe) -> float:
    """Largest |log-prob difference| between a probe and the checkpoint, run by itself."""
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(path)
    worst = 0.0
    for item, expected in zip(probe.items, probe.logprobs, strict=True):
        text = processor.tokenizer.decode(item.prompt_ids)
        images = None if item.image is None else [load_image(item.image)]
        inputs = processor(text=[text], images=images, return_tensors="pt")
        targets = torch.tensor([item.target_ids])
        num_prompt = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], targets], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        with torch.no_grad():
            logits = model(**inputs).logits[0, num_prompt - 1 : -1]
        found = logits.log_softmax(-1).gather(-1, targets[0][:, None]).squeeze(-1)
        worst = max(worst, (found - torch.tensor(expected)).abs().max().item())
    return worst
