"""Trains the tiny base: the vision tower, the matching of words, then everything on the lessons.

Plain torch on a CPU, deterministic for a seed and a number of threads.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tiny_drills import DRILLS, drill_batch
from tiny_lessons import LESSONS, READABLE, Lesson, Lessons, jumble, make_lessons, scene
from tiny_parts import INSTRUCTION, SYSTEM
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from virgo_ray.tiny.draw import CELL
from virgo_ray.tiny.thoughts import THOUGHT_TAGS

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
OPENERS = ("The",)  # the first word of a solution
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


# --- batches ------------------------------------------------------------------------------------


def patches(pixels: np.ndarray) -> np.ndarray:
    """(cells * 4, 384) as `Qwen2VLImageProcessor` lays them out for 8-pixel patches merged 2 x
    2.
    """
    scaled = (pixels.astype(np.float32) / 255.0 - MEAN) / STD
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    grid = scaled.reshape(rows, 2, 8, columns, 2, 8, 3).transpose(
        0, 3, 1, 4, 6, 2, 5
    )  # r c mr mc 3 8 8
    flat = grid.reshape(rows * columns * 4, 3, 1, 64)
    return np.repeat(flat, 2, axis=2).reshape(rows * columns * 4, 384)


def grid_of(pixels: np.ndarray) -> tuple[int, int, int]:
    return 1, pixels.shape[0] // 8, pixels.shape[1] // 8


def prompt_text(item: Lesson) -> str:
    """The chat-formatted prompt, one image placeholder per cell."""
    picture = f"{item.context}\n" if item.context else ""
    if item.pixels is not None:
        picture = f"<|vision_start|>{'<|image_pad|>' * len(item.cell_words)}<|vision_end|>"
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"{picture}{INSTRUCTION} {item.question}<|im_end|>\n<|im_start|>assistant\n"
    )


@dataclass
class Batch:
    inputs: dict[str, Tensor]
    labels: Tensor  # (batch, length), -100 outside responses
    word_targets: Tensor | None  # (cells, readable words), rows sum to 1


def collate(items: list[Lesson], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Right-padded batch."""
    prompts = tokenizer([prompt_text(i) for i in items], add_special_tokens=False)["input_ids"]
    targets = tokenizer([f"{i.response}<|im_end|>" for i in items], add_special_tokens=False)[
        "input_ids"
    ]
    length = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    ids = torch.full((len(items), length), tokenizer.pad_token_id)
    labels = torch.full((len(items), length), -100)
    mask = torch.zeros((len(items), length), dtype=torch.long)
    for i, (p, t) in enumerate(zip(prompts, targets, strict=True)):
        ids[i, : len(p) + len(t)] = torch.tensor(p + t)
        labels[i, len(p) : len(p) + len(t)] = torch.tensor(t)
        mask[i, : len(p) + len(t)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    seen = [i for i in items if i.pixels is not None]
    if seen:
        image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        inputs["mm_token_type_ids"] = (ids == image_id).int()
        inputs["pixel_values"] = torch.from_numpy(np.concatenate([patches(i.pixels) for i in seen]))
        inputs["image_grid_thw"] = torch.tensor([grid_of(i.pixels) for i in seen])
    return Batch(inputs, labels, word_targets(seen) if seen else None)


def word_targets(seen: list[Lesson]) -> Tensor:
    rows = [words for item in seen for words in item.cell_words]
    targets = torch.zeros(len(rows), len(READABLE))
    for i, words in enumerate(rows):
        for word in words:
            targets[i, READABLE.index(word)] = 1 / len(words)
    return targets


def batches(
    items: list[Lesson], size: int, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[Batch]:
    """Batches of lessons of about the same length (less padding), in random order."""
    order = sorted(
        range(len(items)), key=lambda i: (len(items[i].response) + 2 * len(items[i].cell_words), i)
    )
    groups = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
    rng.shuffle(groups)
    for group in groups:
        yield collate([items[i] for i in group], tokenizer)


# --- training -----------------------------------------------------------------------------------


class ReadingLoss:
    """Pulls each merged visual token towards the text embedding of the words it shows.

    Trained only through the language model a tower this small does not start to read within any
    affordable time.
    """

    def __init__(
        self, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.ids = torch.tensor([tokenizer(f" {w}")["input_ids"][0] for w in READABLE])
        self.embed = model.get_input_embeddings()

    def __call__(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, share of cells whose best words are all right); features (cells, hidden)."""
        table = self.embed.weight[self.ids]
        unit = F.normalize(table, dim=-1)
        logits = 12.0 * F.normalize(features, dim=-1) @ unit.T
        shown = (
            targets @ table.detach() * targets.gt(0).sum(1, keepdim=True)
        )  # sum of the words' embeddings
        distance = (features - shown).pow(2).sum(-1).mean() / table.detach().pow(2).sum(-1).mean()
        num_words = targets.gt(0).sum(1, keepdim=True)
        ranks = logits.argsort(descending=True).argsort()
        right = ((ranks < num_words) == targets.gt(0)).all(1).float().mean()
        return F.cross_entropy(logits, targets) + distance, right


def lr_at(step: int, num_steps: int, peak: float, warmup: int = 40) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
    )


def visual_features(model: Qwen2_5_VLForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    output = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    return output.pooler_output if hasattr(output, "pooler_output") else output


def train_reader(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    seed: int,
) -> None:
    """The vision tower alone, on jumbled grids and scenes."""
    rng = random.Random(seed)
    reading = ReadingLoss(model, tokenizer)
    optimizer = torch.optim.AdamW(model.model.visual.parameters(), lr=2e-3, weight_decay=0.01)
    start = time.time()
    for step in range(num_steps):
        items = [(scene if rng.random() < 0.2 else jumble)(rng, True) for _ in range(48)]
        batch = collate(items, tokenizer)
        loss, right = reading(visual_features(model, batch.inputs), batch.word_targets)
        _update(
            optimizer, loss, list(model.model.visual.parameters()), lr_at(step, num_steps, 2e-3)
        )
        if step % 50 == 0 or step == num_steps - 1:
            print(
                f"reader step {step} loss {loss.item():.3f} read {right.item():.3f}"
                f" {time.time() - start:.0f} s"
            )


def _update(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[torch.nn.Parameter], lr: float
) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {loss.item()}; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def train_matching(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    seed: int,
) -> None:
    """The language model alone, on the drills."""
    rng = random.Random(seed)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    start = time.time()
    right = [0.0] * len(DRILLS)
    for step in range(num_steps):
        kind = step % len(DRILLS)
        ids, labels = drill_batch(DRILLS[kind], 64, tokenizer, rng)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        asked = labels[:, 1:] != -100
        loss = F.cross_entropy(logits[asked], labels[:, 1:][asked])
        right[kind] = (logits.argmax(-1) == labels[:, 1:])[asked].float().mean().item()
        _update(optimizer, loss, parameters, lr_at(step, 2 * num_steps, 1e-3))
        if (step + 1) % 50 == 0 or step == num_steps - 1:
            shares = " ".join(f"{d.__name__} {r:.2f}" for d, r in zip(DRILLS, right, strict=True))
            print(f"matching step {step + 1} {shares} {time.time() - start:.0f} s", flush=True)


def redraw_tags(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    """New random embeddings, as long as others, for the thought tags.

    Tokens that are hardly ever right are all pushed the same way: after thousands of steps these
    rows have a cosine of 0.99, and whoever samples a tag gets any of them.
    """
    table = model.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(list(THOUGHT_TAGS))
    draw = torch.randn(len(ids), table.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        table[ids] = F.normalize(draw, dim=-1) * table.norm(dim=-1).mean()


def share_openers(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    seed: int,
) -> None:
    """Words that only a thought begins a paragraph with get the row of the word after a blank.

    No lesson has them at a paragraph's start, which is another token: its row stays as it was
    drawn, and after a fit on thoughts it still had 6 % of the probability at its only place, so
    that samples said any word there. A copy has 81 %, and its twin with the blank the rest.
    Nothing is trained: `num_steps` and `seed` are not used.
    """
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for word in OPENERS:
            alone, after_blank = (tokenizer.convert_tokens_to_ids(w) for w in (word, f"Ġ{word}"))
            table[alone] = table[after_blank]


def train_base(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    seed: int,
    lessons: Lessons = LESSONS,
    batch_size: int = 32,
    peak_lr: float = 1.5e-3,
) -> None:
    """All weights, on mixed lessons; the reading loss goes on at a small weight."""
    rng = random.Random(seed)
    reading = ReadingLoss(model, tokenizer)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.98))
    start, step, total = time.time(), 0, 0.0
    while step < num_steps:
        for batch in batches(
            make_lessons(batch_size * 16, rng, lessons), batch_size, tokenizer, rng
        ):
            features: list[Tensor] = []
            hook = model.model.visual.merger.register_forward_hook(
                lambda *a, out=features: out.append(a[2])
            )
            logits = model(**batch.inputs, use_cache=False).logits
            hook.remove()
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
            total += loss.item()
            if batch.word_targets is not None:
                loss = loss + 0.1 * reading(features[0], batch.word_targets)[0]
            _update(optimizer, loss, parameters, lr_at(step, num_steps, peak_lr))
            step += 1
            if step % 50 == 0 or step == num_steps:
                print(
                    f"base step {step} loss {total / 50:.3f} {time.time() - start:.0f} s",
                    flush=True,
                )
                total = 0.0
            if step == num_steps:
                break
