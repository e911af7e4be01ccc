"""How long data take to be read and checked: `python scripts/bench_ingest.py [--num 2000]`.

Makes problems with pictures of one megapixel in a temporary directory (half PNG, half JPEG) and
reads them as a run does: with one process that decodes, with one for each core, and again with what
the time before left in its run directory. Ratios are to the first line. Making the pictures takes
about as long as reading them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from virgo_ray.config import Config, load_config
from virgo_ray.data import ingest
from virgo_ray.data.gallery import gallery
from virgo_ray.data.gallery.pool import PicturePool
from virgo_ray.model.prompts import Prompter

ROOT = Path(__file__).parents[1]
SIZE = (1152, 896)  # width and height in pixels


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        write_problems(Path(folder), options.num)
        table = Table("read", "seconds", "ms a problem", "times faster")
        slowest = 0.0
        for name, run, num_workers in (
            ("for the first time, one process", "one", 1),
            (f"for the first time, {len(os.sched_getaffinity(0))} processes", "all", None),
            ("again", "all", None),
        ):
            seconds = read(config(Path(folder), run), num_workers)
            slowest = slowest or seconds
            each = f"{1000 * seconds / options.num:.1f}"
            table.add_row(name, f"{seconds:.1f}", each, f"{slowest / seconds:.1f}")
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=2000, help="problems, each with a picture")
    return parser.parse_args()


def write_problems(folder: Path, num: int) -> None:
    rng = np.random.default_rng(0)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for i in range(num):
            name = f"{i}.{('png', 'jpg')[i % 2]}"
            cells = Image.fromarray(rng.integers(0, 256, (14, 18, 3), np.uint8))
            cells.resize(SIZE, Image.Resampling.BICUBIC).save(folder / name, compress_level=1)
            question = f"How many of the cells in picture {i} are darker than those around them?"
            row = {"id": str(i), "question": question, "answer": str(i % 97), "image": name}
            file.write(json.dumps(row) + "\n")


def config(folder: Path, run: str) -> Config:
    return load_config(
        str(ROOT / "configs/tiny.yaml"),
        [
            f"data.train={{reader: jsonl, path: {folder}/train.jsonl, num: null}}",
            "data.heldout.num=8", "data.seed_thoughts.num=8", "model.max_pixels=10000",
            f"run_dir={folder}/{run}",
        ],
    )  # fmt: skip


def read(cfg: Config, num_workers: int | None) -> float:
    """Seconds that reading takes; loading the tokenizer is not part of it."""
    prompter = Prompter(cfg.model, cfg.prompt)
    prompter.check_model()
    gallery.PicturePool = lambda: PicturePool(num_workers=num_workers)
    began = time.monotonic()
    ingest.read_data(cfg, prompter)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
