"""How well a base takes up long thoughts: round 0 of `configs/tiny.yaml` in plain torch, then
pictures of training puzzles.

    python scripts/tiny_model/tiny_uptake.py MODEL ... [--seeds 0 1]       # a minute each, one core

Bases that read and step equally well differ in this; only a fine-tuning shows it.
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path

import torch
from tiny_base import collate
from tiny_measure import answer_of, as_lesson, respond
from tiny_parts import make_tokenizer
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from virgo_ray.evaluate.figures import is_long_format
from virgo_ray.tiny.puzzles import FAMILIES, make_puzzles
from virgo_ray.tiny.thoughts import long_thought
from virgo_ray.train.loss import learning_rate

# As in configs/tiny.yaml: tests/unit/test_tiny_builder.py compares them.
NUM_THOUGHTS, NUM_EPOCHS, BATCH_SIZE, PEAK_LR, WARMUP, MAX_TOKENS = 672, 3, 32, 5e-4, 0.1, 192


def uptake(
    base: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    num_puzzles: int = 100,
) -> dict[str, float]:
    """Shares of training puzzles, seen as pictures: answered rightly (`right`, and by family), in
    the long format (`long`). `base` itself stays as it is.
    """
    model = copy.deepcopy(base)
    learn_thoughts(model, tokenizer, seed, NUM_THOUGHTS, NUM_EPOCHS)
    puzzles = make_puzzles("train", num_puzzles, seed)
    said = respond(model, tokenizer, [as_lesson(p, True) for p in puzzles], MAX_TOKENS)
    right = [answer_of(text) == p.answer for p, text in zip(puzzles, said, strict=True)]
    shares = {"right": sum(right) / num_puzzles}
    shares["long"] = sum(is_long_format(text) for text in said) / num_puzzles
    for family in FAMILIES:
        of = [r for r, p in zip(right, puzzles, strict=True) if p.family == family]
        shares[family] = sum(of) / len(of)
    return shares


def learn_thoughts(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    num: int,
    num_epochs: int,
) -> None:
    """Fine-tunes all weights on `num` seed thoughts (a multiple of the batch)."""
    rng = random.Random(f"uptake/{seed}")
    thoughts = [as_lesson(p, False, long_thought(p)) for p in make_puzzles("seed", num, seed)]
    parameters = list(model.parameters())  # texts give the vision tower no gradient
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    num_steps = num_epochs * (num // BATCH_SIZE)
    model.train()
    for step in range(num_steps):
        at = step * BATCH_SIZE % num
        if at == 0:
            rng.shuffle(thoughts)
        batch = collate(thoughts[at : at + BATCH_SIZE], tokenizer)
        logits = model(**batch.inputs, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, PEAK_LR, WARMUP)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    for path in args.models:
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        for seed in args.seeds:
            shares = uptake(base, tokenizer, seed)
            said = "  ".join(f"{what} {share:.2f}" for what, share in shares.items())
            print(f"{path}  seed {seed}:  {said}", flush=True)


if __name__ == "__main__":
    main()
