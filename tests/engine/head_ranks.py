"""What two ranks do for test_chunked_head.py: `python head_ranks.py RANK PORT DIRECTORY`.

Each scenario is one backward pass of two micro-batches. Rank 0 has one short example, and then no
target at all; rank 1 has all the others. Their summed gradients are compared with those of a plain
model that makes all logits at once. Rank 0 writes the results.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import small_model
import torch
import torch.distributed as dist
import train_ranks
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from virgo_ray.train import sizes
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.model import load_model, prepare

# ZeRO stage, tied output layer, activations computed again in the backward pass.
SCENARIOS: dict[str, tuple[int, bool, bool]] = {
    "zero2_tied": (2, True, False),
    "zero3_tied_recomputing": (3, True, True),
    "zero3_untied": (3, False, False),
}
ROWS = 5  # targets at a time


def load(path: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


def main(rank: int, port: int, directory: Path) -> None:
    from virgo_ray.train.zero import join_group

    torch.set_num_threads(1)
    cfg = train_ranks.config(directory, "group", 2)
    join_group(rank, 2, dist.TCPStore("127.0.0.1", port, is_master=False), cfg.train)
    if rank == 0:
        for tied in (True, False):
            small_model.build(directory / f"tied_{tied}", tied=tied)
        (directory / "model").symlink_to("tied_True")  # whose prompter `train_ranks` takes
        train_ranks.draw_images(directory)
    dist.barrier()
    results = {name: compare(directory, rank, name) for name in SCENARIOS}
    if rank == 0:
        (directory / "results.json").write_text(json.dumps(results))
    dist.barrier()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is being torn down


def compare(directory: Path, rank: int, name: str) -> dict[str, Any]:
    """The largest difference of each gradient, as a share of its largest element, and that of the
    norm of all. ZeRO-2 shows the norm alone."""
    from deepspeed.utils import safe_get_full_grad

    from virgo_ray.train import zero

    stage, tied, is_recomputing = SCENARIOS[name]
    path = str(directory / f"tied_{tied}")
    settings = {"zero_stage": stage, "gradient_checkpointing": is_recomputing}
    cfg = train_ranks.config(directory, name, 2, **settings)
    examples = train_ranks.examples(directory, cfg)
    shares = [[examples[:1], examples[:1]], [examples[1:6], examples[6:]]]
    batcher = Batcher(path, cfg.model, torch.device("cpu"))
    config = zero.zero_config(cfg.train, torch.float32, 1, is_training=True)
    with zero.sharded_loading(config):
        model = load_model(path, cfg.model)
    prepare(model, cfg.train)
    sizes.SOFTMAX_ELEMENTS = ROWS * model.config.get_text_config().vocab_size
    engine = zero.ZeroEngine(TargetLogprobs(model), config, cfg.train)
    num_chunks = 0
    for batch, targets, places in batches(batcher, rank, shares[rank]):
        engine.backward(loss(engine(batch.inputs, places, targets)))
        num_chunks += -(-len(targets) // ROWS)
    expected = plain_gradients(path, cfg, batcher, shares)
    found = {}
    if stage == 3:
        found = {n: safe_get_full_grad(p) for n, p in model.named_parameters() if p.requires_grad}
        assert found.keys() == expected.keys()
    apart = [(g - expected[n]).abs().max() / expected[n].abs().max() for n, g in found.items()]
    chunks: list[int] = [0, 0]
    dist.all_gather_object(chunks, num_chunks)
    norm = engine.step(0.0, lambda norm: None)
    engine.close()
    return {
        "gradients_apart": [value.item() for value in apart],
        "norm_apart": abs(norm / nn.utils.get_total_norm(expected.values()).item() - 1),
        "chunks": chunks,
    }


def batches(batcher: Batcher, rank: int, share: list[Any]) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Micro-batches of a rank with their targets and places; the first rank's second has none."""
    for number, examples in enumerate(share):
        batch = batcher.collate(examples)
        stop = 0 if (rank, number) == (0, 1) else None
        yield batch, batch.targets[:stop], batch.places[:stop]


def loss(logprobs: Tensor) -> Tensor:
    """Every target has another gradient."""
    return (logprobs * torch.linspace(-1.0, 2.0, len(logprobs))).sum()


def plain_gradients(
    path: str, cfg: Any, batcher: Batcher, shares: list[list[Any]]
) -> dict[str, Tensor]:
    """Of all ranks' micro-batches together, by all logits at once, without DeepSpeed."""
    model: Any = load_model(path, cfg.model)
    prepare(model, cfg.train)
    for rank, share in enumerate(shares):
        for batch, targets, places in batches(batcher, rank, share):
            hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state
            logits = nn.functional.linear(hidden.flatten(0, 1)[places], model.lm_head.weight)
            loss(logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
