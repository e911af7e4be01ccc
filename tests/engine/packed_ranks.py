"""Three kinds of Qwen-VL, examples for one step, and what two ranks make of them.

`python packed_ranks.py RANK PORT DIRECTORY` sums the gradients of packed rows with DeepSpeed, for
every kind and stage; rank 0 saves them to `DIRECTORY/gradients.pt`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from small_model import TEXT, VISION, draw_image
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from virgo_ray.config import Config, parse_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import Example
from virgo_ray.train import zero
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs, weighted_nll
from virgo_ray.train.model import load_model, prepare
from virgo_ray.train.rows import packed_rows

ROPE = TEXT["rope_parameters"]
KINDS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "qwen2": (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        {},
        {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "hidden_act": "quick_gelu"},
    ),
    "qwen2_5": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, {}, {}),
    "qwen3": (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        {
            "head_dim": 16,
            "rope_parameters": {**ROPE, "mrope_interleaved": True},
            "num_hidden_layers": 3,  # one more than take features of the tower's layers
            "layer_types": ["full_attention"] * 3,
        },
        {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    ),
}
STAGES = (2, 3)
# Of five examples: tokens of prompt and targets, and its pictures' sides in pixels. The largest
# picture has six windows in Qwen2.5-VL.
SHAPES: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...] = (
    (8, 21, ((96, 64),)),
    (5, 14, ()),
    (9, 6, ((48, 48), (64, 32))),
    (4, 9, ()),
    (7, 12, ((32, 48),)),
)
# Two micro-batches for each of two ranks; in the first round one of them has no picture.
SHARES = (((1, 3), (0,)), ((2,), (4, 1)))


def build(directory: Path, kind: str) -> Path:
    """A random model of that kind, attending sharply enough for any leak to show."""
    config, model, text, vision = KINDS[kind]
    fields = json.loads((TINY_DIRECTORY / "config.json").read_text())
    for half in ("text_config", "vision_config"):
        del fields[half]["model_type"]
        fields[half]["initializer_range"] = 0.2
    fields["text_config"] |= TEXT | text
    fields["vision_config"] |= VISION | vision
    for key in ("model_type", "architectures"):
        del fields[key]
    torch.manual_seed(0)
    path = directory / kind
    model(config(**fields)).save_pretrained(path)
    AutoProcessor.from_pretrained(TINY_DIRECTORY).save_pretrained(path)
    return path


def make_config(directory: Path, kind: str, **train: Any) -> Config:
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    usual = {"num_workers": 1, "batch_size": 4, "freeze_vision": False}
    return parse_config(
        {
            "name": kind,
            "run_dir": str(directory / "run"),
            "model": {"path": str(directory / kind), "dtype": "float32", "max_length": 256},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": usual | train,
        }
    )


def draw_pictures(directory: Path) -> None:
    """Of two seeds' examples."""
    for seed in (0, 1):
        for i, (_, _, sides) in enumerate(SHAPES):
            for j, side in enumerate(sides):
                draw_image(picture(directory, seed, i, j), f"{seed}{i}{j}", side)


def picture(directory: Path, seed: int, example: int, number: int) -> Path:
    return directory / f"{seed}-{example}-{number}.png"


def make_examples(directory: Path, seed: int = 0) -> list[Example]:
    """Of the lengths of `SHAPES`; another seed has other words and pictures of other content."""
    rng = random.Random(seed)
    ids = json.loads((TINY_DIRECTORY / "config.json").read_text())
    frame = [ids["vision_start_token_id"], ids["image_token_id"], ids["vision_end_token_id"]]
    made = []
    for i, (num_prompt, num_targets, sides) in enumerate(SHAPES):
        images = tuple(str(picture(directory, seed, i, j)) for j in range(len(sides)))
        words = [rng.randrange(1000) for _ in range(num_prompt)]
        prompt = [words[0], *(token for _ in sides for token in (*frame, words[1])), *words[2:]]
        targets = [rng.randrange(1000) for _ in range(num_targets)]
        made.append(Example(str(i), prompt, targets, images, weight=1.0 + 0.5 * i))
    return made


def add_gradients(
    module: Any, batcher: Batcher, batches: Sequence[Sequence[Example]], backward: Any
) -> float:
    """The loss of one step in which these micro-batches are a share; `backward` takes each."""
    num_tokens = sum(num_targets for _, num_targets, _ in SHAPES)
    total = 0.0
    for examples in batches:
        batch = batcher.collate(examples)
        logprobs = module(batch.inputs, batch.places, batch.targets)
        loss = weighted_nll(logprobs, batch.weights, num_tokens)
        backward(loss)
        total += loss.item()
    return total


def named(model: nn.Module, gradient_of: Any) -> dict[str, Tensor]:
    return {n: gradient_of(p).clone() for n, p in model.named_parameters() if p.requires_grad}


def gradients_by_ranks(directory: Path, kind: str, stage: int, rank: int) -> dict[str, Tensor]:
    """Of the packed micro-batches of both ranks together, as the optimizer is given them."""
    from deepspeed.utils import safe_get_full_optimizer_state

    unclipped = {"max_grad_norm": 1e9, "zero_stage": stage, "num_workers": 2}
    cfg = make_config(directory, kind, gradient_checkpointing=True, **unclipped)
    settings = zero.zero_config(cfg.train, torch.float32, 64, is_training=True)
    # Nothing stays whole: every layer is gathered, in the vision tower too.
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    with zero.sharded_loading(settings):
        model = load_model(cfg.model.path, cfg.model)
    layout = packed_rows(model)
    prepare(model, cfg.train)
    engine = zero.ZeroEngine(TargetLogprobs(model), settings, cfg.train)
    batcher = Batcher(cfg.model.path, cfg.model, engine.device, layout)
    examples = make_examples(directory)
    mine = [[examples[i] for i in share] for share in SHARES[rank]]
    add_gradients(engine, batcher, mine, engine.backward)
    engine.step(0.0, lambda norm: None)
    # AdamW's first moment begins at 0: after one step it is a tenth of the gradient.
    found = named(model, lambda p: safe_get_full_optimizer_state(p, "exp_avg") / 0.1)
    engine.close()
    return found


def main(rank: int, port: int, directory: Path) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    zero.join_group(rank, 2, store, make_config(directory, "qwen2", num_workers=2).train)
    found = {
        f"{kind}/{stage}": gradients_by_ranks(directory, kind, stage, rank)
        for kind in KINDS
        for stage in STAGES
    }
    if rank == 0:
        torch.save(found, directory / "gradients.pt")
    zero.leave_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is being torn down


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
