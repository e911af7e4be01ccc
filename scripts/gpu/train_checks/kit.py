"""What every row is given: the device, a place for files, models, pictures and examples.

Models are made on first use, with random weights, and stay for the rows after. Token ids are random
too: what is measured here does not depend on what a text says.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from train_checks.scale import Scale, Shape
from virgo_ray.config import Config, parse_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.records import Example, Weights
from virgo_ray.train import zero

WORDS = range(1000)  # ids of ordinary words in the bundled tokenizer


class Emit(Protocol):
    """Reports a finished row."""

    def __call__(
        self, row: str, figures: Mapping[str, Any], error: str = "", skipped: str = ""
    ) -> None:
        """`error` says what is wrong with the figures, `skipped` why there are none."""


@dataclass(frozen=True)
class Kit:
    scale: Scale
    device: str  # cuda or cpu
    work: Path  # models and run directories; large
    out: Path  # what is kept

    def weights(self, name: str) -> Weights:
        """The model of that name, made if need be."""
        directory = self.work / name
        if not (directory / "made").exists():
            make_model(directory, self.scale.shapes[name], self.device)
            (directory / "made").touch()
        return Weights(0, str(directory))

    def config(self, model: str, run: str, dtype: str = "bfloat16", **train: Any) -> Config:
        """A whole config for one rank; `run` names the run directory."""
        sampling = {"sampling": {"max_tokens": 16}}
        source = {"reader": "tiny"}
        usual = {
            "num_workers": 1,
            "gpus_per_worker": int(self.device == "cuda"),
            "gradient_checkpointing": True,
            "checkpoint_every_s": 1e6,
            "batch_size": 1,
            "lr": 1e-5,
        }
        return parse_config(
            {
                "name": run,
                "run_dir": str(self.work / "runs" / run),
                "model": {"path": self.weights(model).path, "dtype": dtype, "max_length": 40000},
                "data": {"train": source, "heldout": source, "seed_thoughts": source},
                "explore": {"num_problems": 1, "num_samples": 1, **sampling},
                "evaluate": sampling,
                "train": usual | train,
            }
        )

    def join_group(self, cfg: Config) -> None:
        """Be the only rank of a process group, NCCL's on a GPU."""
        if not dist.is_initialized():
            zero.join_group(0, 1, dist.HashStore(), cfg.train)

    def picture(self, name: str) -> str:
        """A file of `side` x `side` pixels with the texture of a photograph."""
        path = self.work / "pictures" / f"{name}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.merge("RGB", [Image.effect_noise((63, 63), 80) for _ in range(3)])
            coarse.resize((self.scale.side, self.scale.side), Image.Resampling.BICUBIC).save(path)
        return str(path)

    def example(self, name: str, num_tokens: int, has_picture: bool, rng: random.Random) -> Example:
        """An example of `num_tokens`, its picture expanded; a fifth of the text is its prompt."""
        prompt: list[int] = []
        images: tuple[str, ...] = ()
        hidden = 0
        if has_picture:
            shape = self.scale.shapes[self.scale.full]
            hidden = (self.scale.side // shape.patch_size // 2) ** 2 - 1
            images = (self.picture(name),)
            prompt += self._frame
        rest = max(num_tokens - hidden - len(prompt), 10)
        words = [rng.choice(WORDS) for _ in range(rest)]
        cut = max(1, rest // 5)
        return Example(
            name, (*prompt, *words[:cut]), tuple(words[cut:]), images, len(prompt) + hidden + rest
        )

    @property
    def _frame(self) -> list[int]:
        ids = json.loads((TINY_DIRECTORY / "config.json").read_text())
        return [ids["vision_start_token_id"], ids["image_token_id"], ids["vision_end_token_id"]]


def model_config(shape: Shape) -> Qwen2_5_VLConfig:
    """The bundled model's config with the sizes of `shape`."""
    fields = json.loads((TINY_DIRECTORY / "config.json").read_text())
    for half in ("text_config", "vision_config"):
        del fields[half]["dtype"]
    del fields["text_config"]["tie_word_embeddings"], fields["dtype"]
    layers = shape.text["num_hidden_layers"]
    fields["text_config"] |= shape.text | {"layer_types": ["full_attention"] * layers}
    fields["vision_config"] |= shape.vision | {"out_hidden_size": shape.text["hidden_size"]}
    fields["tie_word_embeddings"] = shape.is_tied
    return Qwen2_5_VLConfig(**fields)


def make_model(directory: Path, shape: Shape, device: str) -> None:
    """Write a complete bfloat16 model directory with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            model_config(shape), dtype=torch.bfloat16
        )
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY_DIRECTORY / name, directory / name)
    processor = json.loads((TINY_DIRECTORY / "processor_config.json").read_text())
    for half in (processor["image_processor"], processor["video_processor"]):
        half["patch_size"] = shape.patch_size
        half["size"] = dict(zip(("shortest_edge", "longest_edge"), shape.pixels, strict=True))
    (directory / "processor_config.json").write_text(json.dumps(processor))
