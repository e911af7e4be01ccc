"""The side of `bench_train.py` that is TRL's SFTTrainer, with its settings for speed.

Its defaults recompute activations; that is off here. Prompts, pictures and responses are those of
the other sides, as text, and the loss is taken on responses only.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset, Features, Image, List, Value
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import SFTConfig, SFTTrainer

from virgo_ray.config import Config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import sequence_length
from virgo_ray.train.supported import CONNECTOR, VISION_TOWER

ORDERS = {"": "random", "grouped": "group_by_length", "balanced": "batch_rebalance"}


class Clock(TrainerCallback):
    """Counts the useful tokens of this rank's forward passes; forgets those of the first steps."""

    def __init__(self, num_skipped: int) -> None:
        self._num_skipped = num_skipped
        self.tokens, self.began, self.seconds = 0, 0.0, 0.0

    def count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.tokens += int(kwargs["attention_mask"].sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._num_skipped:
            self.tokens, self.began = 0, time.monotonic()
        self.seconds = time.monotonic() - self.began


def train_with_trl(side: str, place: Path, cfg: Config, batch_size: int) -> tuple[float, float]:
    """Tokens and seconds; `side` is for instance `trl_4_grouped`."""
    from bench_train import NUM_RANKS, NUM_SKIPPED

    _, size, order = f"{side}_".split("_")[:3]
    data = dataset(place, cfg)
    clock = Clock(NUM_SKIPPED)
    model = AutoModelForImageTextToText.from_pretrained(TINY_DIRECTORY, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if VISION_TOWER.search(name) and not CONNECTOR.search(name):
            parameter.requires_grad_(False)
    model.register_forward_pre_hook(clock.count, with_kwargs=True)
    settings = SFTConfig(
        output_dir=str(place / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=int(size),
        gradient_accumulation_steps=batch_size // NUM_RANKS // int(size),
        num_train_epochs=1,
        learning_rate=cfg.train.lr,
        max_length=None,
        completion_only_loss=True,
        remove_unused_columns=False,
        train_sampling_strategy=ORDERS[order],
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(TINY_DIRECTORY),
        callbacks=[clock],
    )
    trainer.train()
    total = torch.tensor([float(clock.tokens)])
    dist.all_reduce(total)
    return total.item(), clock.seconds


def dataset(place: Path, cfg: Config) -> Dataset:
    from bench_train import examples_of

    tokenizer = AutoProcessor.from_pretrained(TINY_DIRECTORY).tokenizer
    records = json.loads((place / "records.json").read_text())
    rows = [
        {
            "prompt": tokenizer.decode(list(example.prompt_ids)),
            "completion": tokenizer.decode(list(example.target_ids)),
            "images": record["images"],
            "length": sequence_length(example),
        }
        for example, record in zip(examples_of(place, cfg), records, strict=True)
    ]
    features = {"prompt": Value("string"), "completion": Value("string"),
                "images": List(Image()), "length": Value("int64")}  # fmt: skip
    return Dataset.from_list(rows, features=Features(features))
