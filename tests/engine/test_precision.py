"""What sums gradients, and what lies in host memory between its uses: two real ranks.

The ranks do all their work in one go (`precision_ranks.py`), because starting them takes time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import precision_ranks
import pytest
import small_model
import torch
import torch.distributed as dist
import train_ranks
from safetensors.torch import load_file

from virgo_ray.config import TrainConfig
from virgo_ray.errors import TrainingError
from virgo_ray.train.optimizer import FrugalAdamW
from virgo_ray.train.zero import zero_config
from virgo_ray.weights.manifest import check_weights

RANKS_DEADLINE_S = 400.0
OFFLOADED = [name for name in precision_ranks.SCENARIOS if "offload" in name and "lora" not in name]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def results(directory: Path) -> dict[str, Any]:
    small_model.build(directory / "model")
    train_ranks.draw_images(directory)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    script = str(Path(precision_ranks.__file__))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = []
    for rank in range(2):
        command = [sys.executable, script, str(rank), str(store.port), str(directory)]
        with (directory / f"rank{rank}.log").open("w") as log:
            ranks.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
    try:
        for rank, process in enumerate(ranks):
            code = process.wait(timeout=RANKS_DEADLINE_S)
            assert code == 0, (directory / f"rank{rank}.log").read_text()[-3000:]
    finally:
        for process in ranks:
            process.kill()
            process.wait(timeout=10)
    return json.loads((directory / "results.json").read_text())


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_a_bfloat16_gradient_of_many_micro_batches_is_summed_in_float32(results, name):
    assert results["errors"][name] < 1e-6


@pytest.mark.parametrize("name", ["zero1", "zero2_bfloat16", "zero3_bfloat16"])
def test_stage_1_and_deepspeed_as_it_comes_sum_in_bfloat16(results, name):
    """What docs/performance.md says of stage 1, and that the test above can fail."""
    assert results["errors"][name] > 1e-3


@pytest.mark.parametrize("name", [*OFFLOADED, "zero3_hpz", "zero3_hpz_again"])
def test_where_things_lie_changes_nothing_but_rounding(results, name):
    """The norm that clips is summed in another order where ZeRO-3 offloads."""
    fit, plain = results["fits"][name], results["fits"][name[:5]]
    assert fit["losses"] == pytest.approx(plain["losses"], abs=1e-6)
    assert fit["report"]["resumed_from_step"] == (3 if "interrupted" in name else 0)
    found, expected = (load_file(weights_of(which)) for which in (fit, plain))
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=1e-5, atol=1e-7)


def test_adapters_are_merged_while_everything_is_offloaded(results):
    fit = results["fits"]["zero3_lora_offload_all"]
    path = fit["report"]["weights"]["path"]
    check_weights(path)
    losses = [loss for _, loss in sorted((int(k), v) for k, v in fit["losses"].items())]
    assert losses[-1] < losses[0]


def test_a_second_copy_on_ranks_that_it_does_not_divide_is_refused():
    passed = {"zero_optimization": {"zero_hpz_partition_size": 8}}
    train = TrainConfig(num_workers=12, batch_size=12, zero_stage=3, deepspeed=passed)
    with pytest.raises(TrainingError, match="zero_hpz_partition_size=8 does not divide"):
        zero_config(train, torch.bfloat16, 64, is_training=True)
    zero_config(train.model_copy(update={"num_workers": 16}), torch.bfloat16, 64, is_training=True)


@pytest.mark.parametrize("stage", ["zero2", "zero3", "zero3_hpz"])
def test_two_ranks_hand_adapters_on_in_float32(results, stage):
    found = results["twice"][stage]
    assert found == {"kept": True, "merged_alike": True, "finer": True}


@pytest.mark.parametrize("stage", precision_ranks.HANDED_OVER)
def test_one_rank_goes_on_from_a_bfloat16_checkpoint_of_two(results, directory, one_rank, stage):
    found, after = precision_ranks.step_small(directory, 1, stage, 0)
    kept, expected = torch.load(directory / f"values{stage}.pt")
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    for name, value in expected.items():
        assert not torch.equal(after[name], found[name])
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(100_003,), (300, 101)])
def test_fused_updates_are_torchs_fused_ones_and_count_alike(shape):
    """The kernel for CPUs: what a GPU's offloaded parameters are updated by."""
    torch.manual_seed(0)
    fused, plain, unfused = (torch.nn.Parameter(torch.ones(shape)) for _ in range(3))
    pairs = [
        (fused, FrugalAdamW([fused], True, lr=1e-3, weight_decay=0.1)),
        (plain, torch.optim.AdamW([plain], lr=1e-3, weight_decay=0.1, fused=True)),
        (unfused, FrugalAdamW([unfused], lr=1e-3, weight_decay=0.1)),
    ]
    for scale in (1.0, 1e-3, 1e-6):
        grad = torch.randn(shape) * scale
        for parameter, adamw in pairs:
            parameter.grad = grad.clone()
            adamw.step()
    assert torch.equal(fused, plain)
    torch.testing.assert_close(fused, unfused, rtol=1e-6, atol=1e-7)
    for name, value in pairs[1][1].state[plain].items():
        assert torch.equal(pairs[0][1].state[fused][name], value)


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_is_told_to_overlap_on_gpus_and_to_sum_in_float32_where_it_can(stage, gpus):
    train = TrainConfig(zero_stage=stage, gpus_per_worker=gpus)
    settings = zero_config(train, torch.bfloat16, 64, is_training=True)
    assert settings["zero_optimization"]["overlap_comm"] == (gpus == 1 and stage >= 2)
    is_summing = settings.get("data_types") == {"grad_accum_dtype": "fp32"}
    assert is_summing == (settings.get("communication_data_type") == "fp32") == (stage >= 2)
    assert "data_types" not in zero_config(train, torch.float32, 64, is_training=True)


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("offload", ["none", "optimizer", "optimizer_and_parameters"])
def test_deepspeed_is_told_what_to_offload(offload, gpus):
    train = TrainConfig(zero_stage=3, gpus_per_worker=gpus, offload=offload)
    place = {"device": "cpu", "pin_memory": gpus == 1}
    zero = zero_config(train, torch.bfloat16, 64, is_training=True)["zero_optimization"]
    assert zero.get("offload_optimizer") == (place if offload != "none" else None)
    everything = place if offload == "optimizer_and_parameters" else None
    assert zero.get("offload_param") == everything
    scoring = zero_config(train, torch.bfloat16, 64, is_training=False)["zero_optimization"]
    assert scoring.get("offload_optimizer") is None and scoring.get("offload_param") == everything


def test_deepspeed_is_told_what_the_config_hands_through():
    passed = {"communication_data_type": "bf16", "zero_optimization": {"reduce_bucket_size": 7}}
    train = TrainConfig(zero_stage=3, deepspeed=passed)
    settings = zero_config(train, torch.bfloat16, 64, is_training=True)
    assert settings["communication_data_type"] == "bf16"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    zero = settings["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["stage"]) == (7, 3)


def weights_of(fit: dict[str, Any]) -> str:
    return str(Path(fit["report"]["weights"]["path"]) / "model.safetensors")
