"""What a tiny model can do: greedy answers to pictures and texts, by plain transformers."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import torch
from tiny_base import grid_of, patches, prompt_text
from tiny_lessons import Lesson, words_of
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from virgo_ray.tiny.draw import draw
from virgo_ray.tiny.puzzles import FAMILIES, Puzzle, make_puzzles, sample_puzzle

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
MAX_ROWS = 96  # sequences generated at once


def as_lesson(puzzle: Puzzle, visual: bool, response: str = "", blank: bool = False) -> Lesson:
    """`blank`: a white picture of the same size."""
    if not visual:
        return Lesson(None, (), puzzle.text, puzzle.question, response)
    pixels = np.asarray(draw(puzzle))
    pixels = np.full_like(pixels, 255) if blank else pixels
    words = tuple(words_of(symbol) for row in puzzle.cells for symbol in row)
    return Lesson(pixels, words, "", puzzle.question, response)


def answer_of(response: str) -> str | None:
    found = BOXED.findall(response)
    return found[-1].strip() if found else None


@torch.inference_mode()
def respond(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    items: list[Lesson],
    max_new_tokens: int = 120,
) -> list[str]:
    """Greedy responses; prompts of one length go together, so nothing is padded."""
    model.eval()
    prompts = tokenizer([prompt_text(i) for i in items], add_special_tokens=False)["input_ids"]
    order = sorted(range(len(items)), key=lambda i: (items[i].pixels is None, len(prompts[i])))
    said = [""] * len(items)
    while order:
        first = order[0]
        kind = (items[first].pixels is None, len(prompts[first]))
        same = [i for i in order[:MAX_ROWS] if (items[i].pixels is None, len(prompts[i])) == kind]
        order = order[len(same) :]
        ids = torch.tensor([prompts[i] for i in same])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        seen = [p for i in same if (p := items[i].pixels) is not None]
        if seen:
            image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
            inputs["mm_token_type_ids"] = (ids == image_id).int()
            inputs["pixel_values"] = torch.from_numpy(np.concatenate([patches(p) for p in seen]))
            inputs["image_grid_thw"] = torch.tensor([grid_of(p) for p in seen])
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(same, texts, strict=True):
            said[i] = text
    return said


def self_measured(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, num: int = 200
) -> list[tuple[str, str, float]]:
    """(what, family, share) over held-out full puzzles, their captions, and short puzzles."""
    full = make_puzzles("heldout", num, seed=0)
    rng = random.Random("measure")
    short = [sample_puzzle(FAMILIES[i % len(FAMILIES)], rng, "short") for i in range(num)]
    captions = [replace(p, question="What is in the picture?") for p in full]
    rows: list[tuple[str, str, float]] = []
    for visual in (True, False):
        form = "picture" if visual else "text"
        for what, puzzles in (("at once", full), ("short steps", short), ("reading", captions)):
            said = respond(model, tokenizer, [as_lesson(p, visual) for p in puzzles])
            right = [
                response == f"I see {' '.join(p.words)}." if what == "reading"
                else answer_of(response) == p.answer
                for p, response in zip(puzzles, said, strict=True)
            ]  # fmt: skip
            for family in FAMILIES:
                of = [r for r, p in zip(right, puzzles, strict=True) if p.family == family]
                rows.append((f"{what}, {form}", family, sum(of) / len(of)))
    return rows
