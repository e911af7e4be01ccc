"""Packed rows give the loss and gradients of padded rows and of single examples, in every family.

Two ranks sum their gradients in one go (`packed_ranks.py`), started first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import packed_ranks
import pytest
import torch
import torch.distributed as dist
from packed_ranks import KINDS, SHAPES, STAGES, make_config, make_examples
from torch import Tensor, nn

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.records import Example, Plan
from virgo_ray.train import attention
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.memory import describe, largest_micro_batch
from virgo_ray.train.model import load_model, prepare
from virgo_ray.train.rows import packed_rows

RANKS_DEADLINE_S = 300.0
NEAR = 1e-5  # of each tensor's largest gradient
CPU = torch.device("cpu")

Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed")
    for kind in KINDS:
        packed_ranks.build(path, kind)
    packed_ranks.draw_pictures(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def two_ranks(directory: Path) -> Iterator[Callable[[], dict[str, Gradients]]]:
    """Call it for their gradients, by kind and stage."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    script = str(Path(__file__).with_name("packed_ranks.py"))
    logs = [(directory / f"rank{rank}.log").open("w") for rank in range(2)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(store.port), str(directory)],
            stdout=logs[rank], stderr=subprocess.STDOUT, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip

    def results() -> dict[str, Gradients]:
        for rank, process in enumerate(ranks):
            code = process.wait(timeout=RANKS_DEADLINE_S)
            assert code == 0, (directory / f"rank{rank}.log").read_text()[-3000:]
        return torch.load(directory / "gradients.pt")

    yield results
    for process in ranks:
        process.kill()
        process.wait(timeout=10)


class Trained:
    """A model and its batcher, packed or padded."""

    def __init__(self, cfg: Config, is_packed: bool) -> None:
        self.model: Any = load_model(cfg.model.path, cfg.model)
        layout = packed_rows(self.model) if is_packed else None
        prepare(self.model, cfg.train)
        self.batcher = Batcher(cfg.model.path, cfg.model, CPU, layout)
        self.module = TargetLogprobs(self.model)

    def gradients(self, *batches: Sequence[Example]) -> tuple[float, Gradients]:
        """The loss of a step of these micro-batches, and every gradient."""
        self.model.zero_grad()
        loss = packed_ranks.add_gradients(self.module, self.batcher, batches, Tensor.backward)
        return loss, packed_ranks.named(self.model, lambda p: p.grad)

    def logprobs(self, examples: Sequence[Example]) -> list[Tensor]:
        """Of each example's targets."""
        batch = self.batcher.collate(examples)
        found = self.module(batch.inputs, batch.places, batch.targets)
        return list(found.detach().split([len(e.target_ids) for e in examples]))


def trained(directory: Path, kind: str, is_packed: bool = True, **train: Any) -> Trained:
    return Trained(make_config(directory, kind, **train), is_packed)


def apart(found: Gradients, expected: Gradients) -> dict[str, float]:
    """By tensor: the largest difference over the largest gradient; those too far apart."""
    assert found.keys() == expected.keys()
    far = {}
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        if not difference <= NEAR * tensor.abs().max().item():
            far[name] = difference / tensor.abs().max().item()
    return far


@pytest.mark.parametrize("kind", KINDS)
def test_packed_padded_and_one_by_one_have_one_loss_and_one_gradient(directory, kind):
    examples = make_examples(directory)
    usual = trained(directory, kind, is_packed=False)
    expected_loss, expected = usual.gradients(*([e] for e in examples))
    assert [name for name, gradient in expected.items() if not gradient.any()] == []
    padded = usual.gradients(examples)
    packed = trained(directory, kind).gradients(examples)
    recomputed = trained(directory, kind, gradient_checkpointing=True).gradients(examples)
    for loss, gradients in (padded, packed, recomputed):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert apart(gradients, expected) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_other_examples_of_a_row_say_changes_no_bit_of_an_example(directory, kind):
    packed = trained(directory, kind)
    examples, others = make_examples(directory), make_examples(directory, seed=1)
    before = packed.logprobs(examples)
    for place in range(len(examples)):
        row = [e if i == place else others[i] for i, e in enumerate(examples)]
        after = packed.logprobs(row)
        assert torch.equal(after[place], before[place])
        assert not any(
            torch.equal(a, b) for a, b in zip(after, before, strict=True) if a is not after[place]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_positions_in_a_row_are_those_of_each_example_alone(directory, kind):
    packed = trained(directory, kind)
    examples = make_examples(directory)
    row = packed.batcher.collate(examples).inputs["position_ids"]
    alone = [packed.batcher.collate([e]).inputs["position_ids"] for e in examples]
    lengths = packed.batcher.collate(examples).inputs["cu_seq_lens_q"].diff().tolist()
    whole = torch.cat([p[..., :n] for p, n in zip(alone, lengths, strict=True)], -1)
    assert torch.equal(row, whole)
    model = packed.model.model
    for example, own, n in zip(examples, alone, lengths, strict=True):
        batch = Batcher(str(directory / kind), make_config(directory, kind).model, CPU).collate(
            [example]
        )
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        expected, _ = model.get_rope_index(**{name: batch.inputs[name] for name in names})
        assert torch.equal(own[1:, :, :n], expected[..., :n])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_pictures_runs_the_tower_on_a_segment_that_nobody_sees(directory, kind):
    packed = trained(directory, kind)
    text_only = [e for e in make_examples(directory) if not e.images]
    batch = packed.batcher.collate(text_only)
    num = sum(len(e.prompt_ids) + len(e.target_ids) for e in text_only)
    assert batch.inputs["cu_seq_lens_q"].tolist()[-2:] == [num, num + 3]
    expected_loss, _ = trained(directory, kind, is_packed=False).gradients(
        *([e] for e in text_only)
    )
    loss, gradients = packed.gradients(text_only)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    of_tower = [g for name, g in gradients.items() if "visual" in name]
    assert of_tower and not any(g.any() for g in of_tower)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_attends_once_however_many_windows_there_are(directory, kind, monkeypatch):
    calls: list[int] = []
    attend = attention.attend

    def counted(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, *rest: Any) -> Tensor:
        calls.append(len(ends) - 1)
        return attend(query, key, value, ends, *rest)

    monkeypatch.setattr(attention, "attend", counted)
    packed = trained(directory, kind)
    examples = make_examples(directory)
    packed.logprobs(examples)
    tower, decoder = packed.model.model.visual, packed.model.model.language_model
    num_layers = len(decoder.layers)
    assert len(calls) == len(tower.blocks) + num_layers
    assert calls[-num_layers:] == [len(examples)] * num_layers
    num_pictures = sum(len(sides) for _, _, sides in SHAPES)
    windows = 14 if kind == "qwen2_5" else num_pictures  # in the first block; the second sees all
    assert calls[: len(tower.blocks)] == [windows, num_pictures]


def test_neighbours_of_one_length_share_a_call_and_say_what_each_says_alone(monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(22, heads, 8) for heads in (4, 2, 2))
    ends = torch.tensor([0, 4, 8, 12, 13, 18, 22], dtype=torch.int32)
    sdpa, calls = torch.nn.functional.scaled_dot_product_attention, []

    def counted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        calls.append(tuple(query.shape[:3:2]))
        return sdpa(query, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    for is_causal in (True, False):
        found = attention.attend_by_sdpa(q, k, v, ends, is_causal)
        assert torch.allclose(found, by_hand(q, k, v, ends, is_causal), atol=1e-6)
    assert calls == [(3, 4), (1, 1), (1, 5), (1, 4)] * 2


def by_hand(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, is_causal: bool) -> Tensor:
    """Softmax of all scores under a mask of blocks."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    places = torch.arange(len(q))
    segment = torch.bucketize(places, ends, right=True)
    may_see = segment[:, None] == segment
    if is_causal:
        may_see &= places[:, None] >= places
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    shares = scores.masked_fill(~may_see, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, v)


def test_adapters_have_the_gradients_of_padded_rows(directory):
    examples = make_examples(directory)
    found = []
    for is_packed in (True, False):
        frozen = {"freeze_vision": True, "freeze_connector": True}
        tuned = trained(directory, "qwen2_5", is_packed, lora={"rank": 4}, **frozen)
        torch.manual_seed(0)
        for name, parameter in tuned.model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.1)
        found.append(tuned.gradients(examples))
    (packed_loss, packed), (padded_loss, padded) = found
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert packed and all("lora_" in name for name in packed)
    assert apart(packed, padded) == {}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_sum_the_gradients_of_their_packed_rows(directory, two_ranks, kind, stage):
    examples = make_examples(directory)
    shares = [[examples[i] for i in share] for rank in packed_ranks.SHARES for share in rank]
    _, expected = trained(directory, kind, is_packed=False).gradients(*shares)
    assert apart(two_ranks()[f"{kind}/{stage}"], expected) == {}


def test_the_name_of_the_attention_is_not_saved(directory, tmp_path):
    trained(directory, "qwen3").model.config.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()


def test_a_padded_batch_is_refused_by_a_model_that_attends_by_segment(directory):
    packed = trained(directory, "qwen2")
    padded = Batcher(str(directory / "qwen2"), make_config(directory, "qwen2").model, CPU)
    batch = padded.collate(make_examples(directory))
    with pytest.raises(ValueError, match="without boundaries"):
        packed.module(batch.inputs, batch.places, batch.targets)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"layer_types": ["sliding_attention"]}, "sliding window"),
    ],
)
def test_attention_that_is_not_made_for_segments_is_refused(directory, change, why):
    cfg = make_config(directory, "qwen2")
    model: Any = load_model(cfg.model.path, cfg.model)
    for name, value in change.items():
        setattr(model.config.text_config, name, value)
    with pytest.raises(TrainingError, match=f"{why}.*train.packing=false"):
        packed_rows(model)


def test_the_longest_micro_batch_has_the_most_tokens_of_its_row():
    """Padded, examples of 30, 10 and 10 tokens take 90; packed 50, and 3 for a dummy picture."""
    lengths = (30, 10, 10, 28, 27)
    examples = tuple(Example(f"e{n}", [0] * (n - 1), [0]) for n in lengths)
    plan = Plan(examples, ((((0, 1, 2), (3, 4)),),))
    assert largest_micro_batch(plan, 0, is_packed=False) == (0, 1, 2)
    assert largest_micro_batch(plan, 0, is_packed=True) == (3, 4)
    assert "at most 30 tokens = 90 with padding" in describe(plan, (0, 1, 2), is_packed=False)
    assert "at most 28 tokens = 58 in one row" in describe(plan, (3, 4), is_packed=True)
