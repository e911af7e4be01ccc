"""Rebuilds the bundled tiny model from nothing: `python scripts/build_tiny_model.py`.

Fixed seed, one CPU core, about an hour. It makes the tokenizer and the processor,
trains the vision tower to read cells, then the whole model: lessons until it reads, drills in
matching words, lessons again; then the thought tags get embeddings that can be told apart, and a
course of lessons has more of them; a last one has more sums. It measures the result and moves the
finished directory into place. How it compares with the bundled weights: docs/tiny-results.md.

The drills come between, because that order was seen to work: on a model that reads, they take
within 200 steps; on random weights they had not taken after 500.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from tiny_base import redraw_tags, train_base, train_matching, train_reader  # noqa: E402
from tiny_lessons import MORE_SUMS, MORE_TAGS  # noqa: E402
from tiny_measure import self_measured  # noqa: E402
from tiny_parts import make_model, make_processor, make_tokenizer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "virgo_ray" / "tiny" / "model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader-steps", type=int, default=350, help="of the vision tower alone")
    parser.add_argument(
        "--first-steps", type=int, default=2000, help="of lessons before the drills"
    )
    parser.add_argument("--matching-steps", type=int, default=600, help="of the drills in text")
    parser.add_argument("--base-steps", type=int, default=1500, help="of lessons after the drills")
    parser.add_argument("--tag-steps", type=int, default=1200, help="of lessons with more tags")
    parser.add_argument("--sum-steps", type=int, default=2000, help="of lessons with more sums")
    parser.add_argument("--threads", type=int, default=1, help="another number rounds otherwise")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.time()
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    train_reader(model, tokenizer, args.reader_steps, args.seed)
    train_base(model, tokenizer, args.first_steps, args.seed)
    train_matching(model, tokenizer, args.matching_steps, args.seed)
    train_base(model, tokenizer, args.base_steps, args.seed + 1)
    redraw_tags(model, tokenizer, args.seed)
    train_base(model, tokenizer, args.tag_steps, args.seed + 2, MORE_TAGS)
    train_base(model, tokenizer, args.sum_steps, args.seed + 3, MORE_SUMS)
    for what, family, share in self_measured(model, tokenizer):
        print(f"{what:22s} {family:8s} {share:.2f}")

    draft = args.out.with_name(f"{args.out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    make_processor(tokenizer).save_pretrained(draft)
    (draft / "model.safetensors").chmod(0o644)
    shutil.rmtree(args.out, ignore_errors=True)
    draft.rename(args.out)
    print(f"{args.out} written after {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
