"""Builds the bundled tiny model from nothing: `python scripts/tiny_model/build_tiny_model.py`.

Fixed seed, one CPU core, about 70 minutes. It makes the tokenizer and the processor, trains
the vision tower to read cells, then the whole model: lessons until it reads, drills in matching
words, lessons again; then the thought tags get embeddings that can be told apart, and a course of
lessons has more of them; the next one has more sums, the last ones also longer steps. Then the
word that opens a solution gets the embedding that it has in mid-sentence. Every stage is kept in
`--work`; killed, the same command goes on after the last finished one. At the end it measures the
result and puts it beside the stages, for `model.path`; the bundled one is a copy of that. What it
does, and other bases: docs/tiny-results.md.

The drills come between, because that order was seen to work: on a model that reads, they take
within 200 steps; on random weights they had not taken after 500.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tiny_base import redraw_tags, share_openers, train_base, train_matching, train_reader
from tiny_lessons import LONGER_STEPS, MORE_SUMS, MORE_TAGS
from tiny_measure import self_measured
from tiny_parts import make_model, make_processor, make_tokenizer
from tiny_uptake import uptake
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from virgo_ray.files import draft_of, remove_drafts

ROOT = Path(__file__).resolve().parents[2]

Train = Callable[[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast, int, int], None]


@dataclass(frozen=True)
class Stage:
    name: str
    train: Train  # (model, tokenizer, number of steps, seed)
    num_steps: int
    plus: int = 0  # added to the seed: no stage repeats the lessons of another
    redraws_tags: bool = False


STAGES = (
    Stage("reader", train_reader, 350),  # of the vision tower alone
    Stage("lessons", train_base, 2000),
    Stage("drills", train_matching, 600),
    Stage("lessons-again", train_base, 1500, plus=1),
    Stage("tags", partial(train_base, lessons=MORE_TAGS), 1200, plus=2, redraws_tags=True),
    Stage("sums", partial(train_base, lessons=MORE_SUMS), 2000, plus=3),
    Stage("longer-steps", partial(train_base, lessons=LONGER_STEPS), 500, plus=10),
    Stage("longer-steps-again", partial(train_base, lessons=LONGER_STEPS), 500, plus=11),
    Stage("openers", share_openers, 0),
)


def build(
    work: Path, tokenizer: PreTrainedTokenizerFast, seed: int, share: float = 1.0
) -> Qwen2_5_VLForConditionalGeneration:
    """All stages with `share` of their steps; those that `work` has are not trained again."""
    torch.manual_seed(seed)
    model = make_model(tokenizer)
    for number, stage in enumerate(STAGES):
        done = work / f"{number}-{stage.name}"
        if not done.exists():
            print(f"stage {stage.name}", flush=True)
            if stage.redraws_tags:
                redraw_tags(model, tokenizer, seed)
            model.train()
            num_steps = max(1, round(share * stage.num_steps))
            stage.train(model, tokenizer, num_steps, seed + stage.plus)
            _save(model, done)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(done, dtype=torch.float32)
    return model


def _save(
    model: Qwen2_5_VLForConditionalGeneration,
    path: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> None:
    """Whole or not at all; with a tokenizer also the processor."""
    remove_drafts(path)
    with draft_of(path) as draft:
        model.save_pretrained(draft)
        if tokenizer is not None:
            make_processor(tokenizer).save_pretrained(draft)
        (draft / "model.safetensors").chmod(0o644)
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "tiny-model")
    parser.add_argument("--out", type=Path, help="default: `model` beside the stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number rounds otherwise")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    start = time.time()
    tokenizer = make_tokenizer()
    work = args.work / f"seed{args.seed}-threads{args.threads}"
    model = build(work, tokenizer, args.seed)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    for what, family, share in self_measured(model, tokenizer):
        print(f"{what:22s} {family:8s} {share:.2f}")
    for what, share in uptake(model, tokenizer, args.seed).items():
        print(f"{'after seed thoughts':22s} {what:8s} {share:.2f}")
    out = args.out or work / "model"
    _save(model, out, tokenizer)
    print(f"{out} written after {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
