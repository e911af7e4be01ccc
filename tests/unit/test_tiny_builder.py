"""The builder of the bundled model: killed, it goes on; its judgement is that of the tiny run."""

import shutil
import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from virgo_ray.config import load_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.tiny.datasets import seed_thoughts_dataset
from virgo_ray.tiny.scene_thoughts import scene_thoughts_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "tiny_model"))

import tiny_uptake
from build_tiny_model import STAGES, build
from tiny_parts import make_processor, make_tokenizer

REPO = Path(__file__).parents[2]
SHARE = 0.001  # one or two steps a stage


def test_the_bundled_tokenizer_and_processor_are_those_of_the_script(tmp_path):
    make_processor(make_tokenizer()).save_pretrained(tmp_path)
    for made in tmp_path.iterdir():
        assert made.read_bytes() == (TINY_DIRECTORY / made.name).read_bytes(), made.name


def test_a_build_that_was_killed_goes_on_and_ends_with_the_same_weights(tmp_path):
    tokenizer = make_tokenizer()
    whole = build(tmp_path, tokenizer, seed=0, share=SHARE)
    stages = [f"{number}-{stage.name}" for number, stage in enumerate(STAGES)]
    assert sorted(path.name for path in tmp_path.iterdir()) == stages
    for name in stages[6:]:
        shutil.rmtree(tmp_path / name)
    resumed = build(tmp_path, tokenizer, seed=0, share=SHARE)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_the_uptake_is_measured_with_the_numbers_of_the_tiny_run():
    cfg = load_config(REPO / "configs/tiny.yaml")
    assert cfg.data.seed_thoughts.num == tiny_uptake.NUM_THOUGHTS
    assert cfg.train.num_epochs == tiny_uptake.NUM_EPOCHS
    assert cfg.train.batch_size == tiny_uptake.BATCH_SIZE
    assert cfg.train.lr == tiny_uptake.PEAK_LR
    assert cfg.train.warmup_ratio == tiny_uptake.WARMUP
    assert cfg.explore.sampling.max_tokens == tiny_uptake.MAX_TOKENS


def test_the_uptake_leaves_the_base_as_it_is(monkeypatch):
    monkeypatch.setattr(tiny_uptake, "NUM_THOUGHTS", 32)
    monkeypatch.setattr(tiny_uptake, "MAX_TOKENS", 8)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(TINY_DIRECTORY, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    shares = tiny_uptake.uptake(base, make_tokenizer(), seed=0, num_puzzles=8)
    assert set(shares) == {"right", "long", "chain", "table", "shapes", "bars"}
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_every_token_of_the_seed_thoughts_has_a_row_that_the_base_knows():
    """A row that no lesson met is as long as it was drawn; samples say any word in its place."""
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(TINY_DIRECTORY, dtype=torch.float32)
    lengths = base.get_input_embeddings().weight.norm(dim=-1)
    tokenizer = make_tokenizer()
    unmet = lengths[tokenizer.convert_tokens_to_ids("How")].item()
    for thoughts in (seed_thoughts_dataset(64, 0), scene_thoughts_dataset(128, 0)):
        for row in thoughts:
            said = tokenizer(row["thought"], add_special_tokens=False).input_ids
            strange = [i for i in set(said) if lengths[i] > 0.98 * unmet]
            assert not strange, tokenizer.convert_ids_to_tokens(strange)
