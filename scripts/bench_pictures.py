"""What pictures cost a training step, and what is gained by making them ahead of it.

    python scripts/bench_pictures.py [--only pictures|workers|steps]   # five minutes on 2 cores

Three tables, on synthetic pictures. `pictures`: milliseconds of one thread for opening and for
processing, and for what a cache on disk would leave to do. `workers`: threads against processes.
`steps`: fits of a small random model on megapixel pictures, of which each is seen once; the model's
share of a step is arbitrary, so look at the ratios and at how long the steps waited.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from virgo_ray.config import Config, ModelConfig, parse_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.images import load_image
from virgo_ray.records import Example, Plan, Weights
from virgo_ray.train import zero
from virgo_ray.train.batch import Batcher, MicroBatch
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.pictures import Picture, Pictures

PATCH = 14  # pixels; two patches a side are a token, as in Qwen2.5-VL
MOST_PIXELS = 5_000_000
# name: sides of the file in pixels, most pixels for the model
SIZES = {
    "0.25 Mpx": ((500, 500), MOST_PIXELS),
    "1 Mpx": ((1000, 1000), MOST_PIXELS),
    "4 Mpx": ((2000, 2000), MOST_PIXELS),
    "12 Mpx, scaled to 1": ((4000, 3000), 1_003_520),
}
FORMATS = {"JPEG": {"quality": 90}, "PNG": {}}
STEPS, PER_STEP, TARGETS = 8, 4, 64
REPEATS = 5


class Enough(Exception):
    """All steps are measured: leaves the fit before it publishes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("pictures", "workers", "steps"))
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        build_model(directory / "model")
        torch.set_num_threads(1)
        for table in (pictures, workers, steps):
            if only in (None, table.__name__):
                table(directory)


# -- one picture -----------------------------------------------------------------------------------


def pictures(directory: Path) -> None:
    print("| picture | file | open, ms | process, ms | from uint8, ms | from float32, ms | MB |")
    print("|---|---|---|---|---|---|---|")
    for size, (sides, most) in SIZES.items():
        for kind in FORMATS:
            path = draw(directory / f"one.{kind.lower()}", kind, sides, seed=0)
            print(f"| {size} | {kind} | {' | '.join(of_picture(directory, path, most))} |")
    print()


def of_picture(directory: Path, path: str, most_pixels: int) -> list[str]:
    maker, image = new_pictures(directory, most_pixels), load_image(path)
    made = maker._process(path)
    resized, pixels = directory / "resized.npy", directory / "pixels.npy"
    keep_resized(maker, path, resized)
    np.save(pixels, made.pixels.numpy())
    assert torch.equal(from_resized(maker, resized).pixels, made.pixels)
    times = [
        ms(partial(load_image, path)),
        ms(partial(process, maker, image)),
        ms(partial(from_resized, maker, resized)),
        ms(lambda: torch.from_numpy(np.load(pixels))),
    ]
    megabytes = " / ".join(f"{place.stat().st_size / 1e6:.1f}" for place in (resized, pixels))
    return [*(f"{value:.1f}" for value in times), megabytes]


def new_pictures(directory: Path, most_pixels: int = MOST_PIXELS) -> Pictures:
    return Pictures(str(directory / "model"), model_config(directory, most_pixels))


def process(maker: Pictures, image: Any, **changes: Any) -> Any:
    return maker._processor(images=[image], size=maker._size, return_tensors="pt", **changes)


def keep_resized(maker: Pictures, path: str, place: Path) -> None:
    """What a cache on disk would hold: the picture after resizing, a byte a value (3, H, W)."""
    image = transforms.pil_to_tensor(load_image(path))
    _, height, width = (maker._processor.patch_size * n for n in maker._process(path).grid[0])
    cubic = transforms.InterpolationMode.BICUBIC
    sides = [int(height), int(width)]
    np.save(place, transforms.resize(image, sides, interpolation=cubic, antialias=True).numpy())


def from_resized(maker: Pictures, place: Path) -> Picture:
    output = process(maker, torch.from_numpy(np.load(place)), do_resize=False)
    return Picture(output["pixel_values"], output["image_grid_thw"], 0)


def ms(work: Callable[[], Any]) -> float:
    """Median of some calls."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


# -- threads or processes ------------------------------------------------------------------------


def workers(directory: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    of_kind: dict[str, Callable[[int], Executor]] = {
        "threads": lambda num: ThreadPoolExecutor(num, "bench", one_core),
        "processes": lambda num: ProcessPoolExecutor(num, spawn, one_core),
    }
    print("| file of 1 Mpx | workers | ms a picture | to 1 thread |\n|---|---|---|---|")
    for kind in FORMATS:
        paths = drawn(directory, kind, 8) * 4
        taken: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            for num in (1, 2):
                for name, pool in of_kind.items():
                    seconds = rate(pool(num), directory, paths)
                    taken.setdefault(f"{num} {name}", []).append(1e3 * seconds)
        first = statistics.median(taken["1 threads"])
        for name, values in taken.items():
            middle = statistics.median(values)
            print(f"| {kind} | {name} | {middle:.1f} | {middle / first:.2f} |")
    print()


def one_core() -> None:
    torch.set_num_threads(1)


def rate(pool: Executor, directory: Path, paths: Sequence[str]) -> float:
    """Seconds a picture, once the workers have begun."""
    with pool:
        make = partial(make_pixels, str(directory))
        list(pool.map(make, paths[:4]))
        began = time.perf_counter()
        for pixels in pool.map(make, paths):
            assert len(pixels)
        return (time.perf_counter() - began) / len(paths)


MAKERS: dict[str, Pictures] = {}


def make_pixels(directory: str, path: str) -> torch.Tensor:
    if directory not in MAKERS:
        MAKERS[directory] = new_pictures(Path(directory))
    return MAKERS[directory]._process(path).pixels


# -- steps -----------------------------------------------------------------------------------------


class InStep:
    """In place of `Feed`: every micro-batch is made when the step asks for it."""

    def __init__(self, batcher: Batcher, wanted: Iterable[Sequence[Example]], _: int) -> None:
        self._batcher, self._wanted, self._seconds = batcher, iter(wanted), 0.0

    def __enter__(self) -> InStep:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""

    def take(self) -> MicroBatch:
        began = time.monotonic()
        batch = self._batcher.collate(next(self._wanted))
        self._seconds += time.monotonic() - began
        return batch

    def take_seconds(self) -> tuple[float, float]:
        seconds, self._seconds = self._seconds, 0.0
        return seconds, seconds


def steps(directory: Path) -> None:
    cfg = fit_config(directory)
    zero.join_group(0, 1, dist.HashStore(), cfg.train)
    print("| file of 1 Mpx | micro-batches | s a step | waited | to those in the step |")
    print("|---|---|---|---|---|")
    for kind in FORMATS:
        paths = drawn(directory, kind, STEPS * PER_STEP)
        plan = make_plan(directory, paths)
        for path in paths:
            keep_resized(new_pictures(directory), path, Path(f"{path}.npy"))
        ways = {"made in the step": in_step, "made ahead": ahead, "ahead, from a cache": cached}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, way in ways.items():
                with way():
                    taken[name].append(fit(cfg, plan))
        first = [seconds for seconds, _ in taken["made in the step"]]
        for name, values in taken.items():
            ratios = [one / seconds for one, (seconds, _) in zip(first, values, strict=True)]
            seconds, waited = (statistics.median(column) for column in zip(*values, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {kind} | {name} | {seconds:.2f} | {waited:.0%} | {ratio} |")
        sys.stdout.flush()
    zero.leave_group()


@contextmanager
def in_step() -> Iterator[None]:
    with patch("virgo_ray.train.fitting.Feed", InStep):
        yield


@contextmanager
def ahead() -> Iterator[None]:
    yield


@contextmanager
def cached() -> Iterator[None]:
    """Resized pictures come from the disk; the page cache has them."""

    def read(self: Pictures, path: str) -> Picture:
        made = from_resized(self, Path(f"{path}.npy"))
        return Picture(made.pixels, made.grid, int(made.grid.prod()) // self._merge**2)

    with patch.object(Pictures, "_process", read):
        yield


def fit(cfg: Config, plan: Plan) -> tuple[float, float]:
    """(seconds a step, share of it waited): the medians of all steps but the first."""
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if "step" in event:
            events.append(event)
            if len(events) == STEPS:
                raise Enough

    with tempfile.TemporaryDirectory() as run_dir, suppress(Enough):
        fresh = cfg.model_copy(update={"run_dir": run_dir})
        TrainEngine(fresh).fit(plan, Weights(0, cfg.model.path), 1, listen)
    columns = [[event[name] for event in events[1:]] for name in ("seconds", "wait_share")]
    return statistics.median(columns[0]), statistics.median(columns[1])


def make_plan(directory: Path, paths: Sequence[str]) -> Plan:
    """Micro-batches of one picture."""
    batcher = Batcher(str(directory / "model"), model_config(directory), torch.device("cpu"))
    ids = [1, batcher._image_id, 2]
    targets = list(range(3, 3 + TARGETS))
    seen = batcher.prepare([Example("", ids, targets, (paths[0],))]).inputs["input_ids"].shape[1]
    examples = tuple(Example(path, ids, targets, (path,), num_tokens=seen) for path in paths)
    numbers = [(number,) for number in range(len(paths))]
    rows = [tuple(numbers[i : i + PER_STEP]) for i in range(0, len(paths), PER_STEP)]
    return Plan(examples, tuple((row,) for row in rows))


# -- files -----------------------------------------------------------------------------------------


def drawn(directory: Path, kind: str, num: int) -> list[str]:
    sides, _ = SIZES["1 Mpx"]
    return [draw(directory / f"{n}.{kind.lower()}", kind, sides, seed=n) for n in range(num)]


def draw(path: Path, kind: str, sides: tuple[int, int], seed: int) -> str:
    """Soft spots with a little noise: files of the size that photographs have."""
    rng = np.random.default_rng(seed)
    spots = rng.integers(0, 255, (sides[1] // 8, sides[0] // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(spots).resize(sides, Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + rng.integers(-6, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, kind, **FORMATS[kind])
    return str(path)


def model_config(directory: Path, most_pixels: int = MOST_PIXELS) -> ModelConfig:
    return ModelConfig(
        path=str(directory / "model"), dtype="float32", max_length=4096, min_pixels=3136,
        max_pixels=most_pixels,
    )  # fmt: skip


def fit_config(directory: Path) -> Config:
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    return parse_config(
        {
            "name": "bench", "run_dir": str(directory / "run"),
            "model": model_config(directory).model_dump(),
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": {"num_workers": 1, "gpus_per_worker": 0, "zero_stage": 0},
        }
    )  # fmt: skip


def build_model(path: Path) -> None:
    """The bundled model with few weights, patches of Qwen2.5-VL's size and windows alone."""
    fields = json.loads((TINY_DIRECTORY / "config.json").read_text())
    fields["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    fields["text_config"] |= {"max_position_embeddings": 4096}
    fields["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [], "window_size": 8 * PATCH}
    fields["vision_config"] |= {"patch_size": PATCH, "spatial_patch_size": PATCH}
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**fields)).save_pretrained(path)
    processor: Any = AutoProcessor.from_pretrained(TINY_DIRECTORY)
    processor.image_processor.patch_size = PATCH
    processor.save_pretrained(path)


if __name__ == "__main__":
    main()
