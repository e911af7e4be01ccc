"""The output head by chunks, against all logits at once: values, gradients, memory, ZeRO-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_ranks
import pytest
import small_model
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from virgo_ray.errors import TrainingError
from virgo_ray.train import head, sizes
from virgo_ray.train.head import ChosenLogprobs, LogprobHead

RANKS_DEADLINE_S = 300.0
T, H, V = 50, 24, 97


@pytest.fixture(params=[1, 7, 49, 50], ids=lambda rows: f"{rows}_rows")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SOFTMAX_ELEMENTS", request.param * V + 3)


class Values:
    """Hidden states, weight, targets, temperatures and any upstream gradient, some of it zero."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.hidden = (2 * normal(T, H)).to(dtype).requires_grad_()
        self.weight = normal(V, H).to(dtype).requires_grad_()
        self.targets = torch.randint(V, (T,), generator=generator)
        self.temperatures = 0.5 + torch.rand(T, generator=generator)
        self.upstream = normal(T)
        self.upstream[3] = 0.0

    def chunked(self, temperatures: Tensor | None = None, dtype: Any = None) -> list[Tensor]:
        """Log-probabilities, gradient of hidden states, of the weight."""
        dtype = dtype or self.weight.dtype
        args = (self.hidden, self.weight, self.targets, temperatures, dtype)
        return self._with_gradients(ChosenLogprobs.apply(*args))

    def plain(self, temperatures: Tensor | None = None, exact: bool = False) -> list[Tensor]:
        """The same of all logits at once; `exact`: everything in float32."""
        hidden, weight = self.hidden, self.weight
        if exact:
            hidden, weight = hidden.float(), weight.float()
        logits = (hidden @ weight.T).float()
        if temperatures is not None:
            logits = logits / temperatures[:, None]
        chosen = logits.log_softmax(-1).gather(-1, self.targets[:, None]).squeeze(-1)
        return self._with_gradients(chosen)

    def _with_gradients(self, logprobs: Any) -> list[Tensor]:
        grads = torch.autograd.grad(logprobs, (self.hidden, self.weight), self.upstream)
        return [logprobs.detach(), *(g.float() for g in grads)]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference, as a share of each tensor's largest element."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("is_hot", [False, True])
def test_log_probabilities_and_gradients_are_those_of_all_logits(is_hot):
    values = Values()
    temperatures = values.temperatures if is_hot else None
    assert worst(values.chunked(temperatures), values.plain(temperatures)) < 1e-5


@pytest.mark.usefixtures("chunks")
def test_banned_ids_have_no_probability_and_no_gradient():
    values = Values()
    banned = torch.tensor([i for i in (3, 50, 96) if i not in values.targets])
    assert len(banned) > 1
    logits = (values.hidden @ values.weight.T).float() / values.temperatures[:, None]
    plain = logits.index_fill(-1, banned, -torch.inf).log_softmax(-1)
    expected = values._with_gradients(plain.gather(-1, values.targets[:, None]).squeeze(-1))
    args = (values.hidden, values.weight, values.targets, values.temperatures, torch.float32)
    found = values._with_gradients(ChosenLogprobs.apply(*args, banned))
    assert worst(found, expected) < 1e-5
    assert not found[2][banned].any()
    assert worst(found[:1], values.chunked(values.temperatures)[:1]) > 1e-5


@pytest.mark.usefixtures("chunks")
def test_in_bfloat16_it_is_as_near_to_float32_as_all_logits_are():
    values = Values(torch.bfloat16)
    exact = values.plain(exact=True)
    assert worst(values.chunked(), exact) < 1.5 * worst(values.plain(), exact) < 0.05


@pytest.mark.usefixtures("chunks")
def test_a_float32_head_over_bfloat16_weights_rounds_no_logit():
    values = Values(torch.bfloat16)
    exact = values.plain(exact=True)
    found = values.chunked(dtype=torch.float32)
    assert worst(found[:1], exact[:1]) < 1e-5 < worst(values.chunked()[:1], exact[:1])
    assert worst(found, exact) < 1.5 * worst(values.plain(), exact)


def test_no_target_at_all_gives_gradients_of_zero():
    values = Values()
    values.hidden, values.targets = values.hidden[:0].detach().requires_grad_(), values.targets[:0]
    values.upstream = values.upstream[:0]
    logprobs, to_hidden, to_weight = values.chunked()
    assert logprobs.shape == (0,) and to_hidden.shape == (0, H)
    assert to_weight.shape == (V, H) and not to_weight.any()


# -- memory --------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """Elements of the tensors that operations inside make, and most bytes of them at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.peak = 0
        self._living: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.sizes.append(result.numel())
            self._living = [ref for ref in self._living if ref() is not None]
            self._living.append(weakref.ref(result))
            storages = {
                tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for ref in self._living
                if (tensor := ref()) is not None
            }
            self.peak = max(self.peak, sum(storages.values()))
        return result


def made_by(work: Callable[[], Any]) -> list[int]:
    with Made() as made:
        work()
    return made.sizes


def test_no_tensor_is_larger_than_the_logits_of_a_chunk(monkeypatch):
    monkeypatch.setattr(sizes, "SOFTMAX_ELEMENTS", 30 * V)
    values = Values()
    assert max(made_by(values.plain)) == T * V
    assert max(made_by(values.chunked)) == 30 * V


@pytest.mark.parametrize(
    "dtype, bytes_each", [(torch.float32, 4), (torch.bfloat16, 6)], ids=["float32", "bfloat16"]
)
def test_no_two_chunks_are_there_at_a_time(monkeypatch, dtype, bytes_each):
    monkeypatch.setattr(sizes, "SOFTMAX_ELEMENTS", 24 * V)
    values = Values(dtype)
    values.hidden, values.weight = (
        x.detach()[:, :1].clone().requires_grad_() for x in (values.hidden, values.weight)
    )
    with Made() as made:
        values.chunked()
    chunk = bytes_each * 24 * V
    assert chunk < made.peak < 1.3 * chunk  # and what there is for a target or a word


def test_a_frozen_head_costs_no_gradient_of_its_weight(monkeypatch):
    monkeypatch.setattr(sizes, "SOFTMAX_ELEMENTS", 10 * V)  # fewer than the weight has
    values = Values()
    assert V * H in made_by(values.chunked)
    expected = values.plain()[1]
    frozen, hidden = values.weight.detach(), values.hidden

    def backward() -> None:
        logprobs = ChosenLogprobs.apply(hidden, frozen, values.targets, None, frozen.dtype)
        torch.autograd.backward(logprobs, values.upstream)

    made = made_by(backward)
    transposed = 2 * (-(-T // 10))  # views of the weight, one for each chunk and pass
    assert made.count(V * H) == transposed and max(made) == V * H
    assert hidden.grad is not None
    assert worst([hidden.grad], [expected]) < 1e-5


def test_what_waits_for_the_backward_pass_holds_no_logits(monkeypatch):
    monkeypatch.setattr(sizes, "SOFTMAX_ELEMENTS", 10 * V)
    values = Values()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        ChosenLogprobs.apply(values.hidden, values.weight, values.targets, None, torch.float32)
    assert sorted(x.numel() for x in saved) == sorted([T * H, V * H, T, T])
    assert any(x is values.weight for x in saved)  # the parameter, which ZeRO-3 frees and gathers


# -- in a model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_keeps_its_parameters_their_names_and_its_own_forward(tmp_path, tied):
    model = head_ranks.load(small_model.build(tmp_path, tied=tied))
    names = [name for name, _ in model.named_parameters()]
    embedding = model.get_input_embeddings().weight
    assert (model.lm_head.weight is embedding) is tied
    before = model(input_ids=torch.arange(5)[None]).logits
    head.install(model)
    assert isinstance(model.lm_head, LogprobHead)
    assert [name for name, _ in model.named_parameters()] == names
    assert (model.lm_head.weight is embedding) is tied
    assert torch.equal(model(input_ids=torch.arange(5)[None]).logits, before)


def test_an_output_layer_with_a_bias_or_adapters_is_refused(tmp_path):
    model = head_ranks.load(small_model.build(tmp_path))
    for layer in (nn.Linear(4, 8), nn.Sequential(nn.Linear(4, 8, bias=False))):
        model.lm_head = layer
        with pytest.raises(TrainingError, match=r"lm_head is of .*leave it out of train\.lora"):
            head.install(model)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `head_ranks.compare` returns, by scenario, from two gloo ranks."""
    directory = tmp_path_factory.mktemp("ranks")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    script = str(Path(head_ranks.__file__))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(store.port), str(directory)],
            stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            said = process.communicate(timeout=RANKS_DEADLINE_S)[1]
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in processes:
            process.kill()
    return json.loads((directory / "results.json").read_text())


@pytest.mark.parametrize("name", list(head_ranks.SCENARIOS))
def test_two_ranks_with_unequal_chunks_have_the_gradients_of_all_logits(ranks, name):
    few, many = ranks[name]["chunks"]
    assert few * 4 < many
    apart = ranks[name]["gradients_apart"]
    assert len(apart) > 20 or "zero3" not in name
    assert max([*apart, ranks[name]["norm_apart"]]) < 1e-5
