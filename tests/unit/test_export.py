"""What a published checkpoint holds beside the trained tensors, on the bundled tiny model."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from base_models import config_of, copy_of_tiny
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
)
from transformers.conversion_mapping import get_model_conversion_mapping

from virgo_ray.config import SamplingConfig
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import FitReport, Weights
from virgo_ray.train.export import describe, make_checkpoint, write_card, write_model
from virgo_ray.train.pictures import Pictures
from virgo_ray.weights.card import model_card
from virgo_ray.weights.hashing import hash_files
from virgo_ray.weights.manifest import check_weights, tensor_table
from virgo_ray.weights.publish import publish
from virgo_ray.weights.settings import generation_settings
from virgo_ray.weights.transport import DiskTransport

EXTRA = {
    "mtp.fc.weight": torch.randn(8, 8).bfloat16(),
    "mtp.scale": torch.tensor([float("nan"), -0.0]),
    "visual.rotary_pos_emb.inv_freq": torch.arange(3),
}
END_ID = 1039


def published(cfg, start, root, version=1, conversions=None):
    """The directory that a fit from `start` would publish, with every weight a little changed."""
    model = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32)
    if conversions is not None:
        model._weight_conversions = conversions(model)
    tensors = {name: p.detach() + 1e-3 for name, p in model.named_parameters()}
    report = FitReport(Weights(version, str(root)), 3, 12, 345, 234, 2.5, 1.25, 6.0)

    checkpoint = make_checkpoint(tensors, Path(start), cfg)

    def write(directory: Path) -> None:
        write_model(describe(model), checkpoint, Path(start), directory, cfg, END_ID)
        write_card(directory, cfg, report, checkpoint.layout)

    known = partial(hash_files, tensors=checkpoint.tensors)
    return Path(publish(root, version, write, known).path)


def all_tensors(directory):
    return {k: v for f in sorted(directory.glob("*.safetensors")) for k, v in load_file(f).items()}


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).tolist()


@pytest.fixture(scope="module")
def with_extra(tmp_path_factory):
    """A base with tensors that its class does not build, a card and a licence; what came of it."""
    root = tmp_path_factory.mktemp("extra")
    base = copy_of_tiny(root / "base", lambda weights: weights.update(EXTRA))
    card = "---\nlicense: apache-2.0\nlicense_link: LICENSE\n---\n# The base's own words\n"
    (base / "README.md").write_text(card)
    (base / "LICENSE.txt").write_text("terms")
    cfg = config_of(base, run_dir=str(root / "run"), train={"restart_from": "previous"})
    first = published(cfg, base, root / "weights")
    return cfg, base, first, published(cfg, first, root / "weights", version=2)


def test_extra_tensors_are_carried_over_bit_for_bit_from_round_to_round(with_extra):
    _, base, *versions = with_extra
    before = all_tensors(base)
    for directory in versions:
        after = all_tensors(directory)
        assert after.keys() == before.keys()
        assert all(raw(after[name]) == raw(EXTRA[name]) for name in EXTRA)
        assert all(after[name].dtype == EXTRA[name].dtype for name in EXTRA)
        trained = before.keys() - EXTRA.keys()
        assert not any(torch.equal(after[name], before[name]) for name in trained)


def test_what_proved_the_start_is_not_carried_to_what_came_of_it(tmp_path):
    """A base may be another run's version, with the pictures of its problems."""
    base = copy_of_tiny(tmp_path / "base")
    (base / "probe.json").write_text("{}")
    (base / "probe_pictures").mkdir()
    (base / "probe_pictures" / "ab12.json").write_text("of a patient, and a strange suffix")
    made = published(config_of(base, run_dir=str(tmp_path / "run")), base, tmp_path / "weights")
    assert not [p.name for p in made.rglob("*") if "probe" in p.name or "ab12" in p.name]


def test_a_checkpoint_with_extra_tensors_is_whole_for_every_reader(with_extra):
    *_, directory, _ = with_extra
    manifest = check_weights(directory)
    assert manifest.tensors.keys() == tensor_table(directory).keys()
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: t.file for name, t in manifest.tensors.items()}
    assert dict(DiskTransport().receive(str(directory))).keys() == manifest.tensors.keys()
    model, info = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    stored = all_tensors(directory)["model.norm.weight"]
    assert torch.equal(model.model.language_model.norm.weight, stored)


def test_names_are_those_of_the_base_whatever_loading_left_on_the_model(tmp_path):
    """ZeRO-3 leaves all rules of transformers on it, also those that the base did not need."""
    base = copy_of_tiny(tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.save_pretrained(base, save_original_format=False)
    directory = published(
        config_of(base), base, tmp_path / "weights", conversions=get_model_conversion_mapping
    )
    assert all_tensors(directory).keys() == all_tensors(base).keys()
    assert "model.language_model.norm.weight" in all_tensors(directory)


def test_a_stored_copy_of_a_tied_embedding_is_not_left_untrained_beside_it(tmp_path):
    base = copy_of_tiny(
        tmp_path / "base",
        lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}),
    )
    directory = published(config_of(base), base, tmp_path / "weights")
    assert "lm_head.weight" not in all_tensors(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


# -- pictures --------------------------------------------------------------------------------------


def nested(base):
    """As transformers 5 saves the tiny model: a section of processor_config.json."""


def flat(base):
    """As most models on the hub: a file of its own, bounds under two names."""
    whole = json.loads((base / "processor_config.json").read_text())
    own = whole.pop("image_processor")
    own |= {"min_pixels": 256, "max_pixels": 9216, "processor_class": whole["processor_class"]}
    (base / "preprocessor_config.json").write_text(json.dumps(own))
    (base / "processor_config.json").write_text(
        json.dumps({"processor_class": whole["processor_class"]})
    )


def named_in_size(base):
    """As Qwen2-VL: the old names inside `size`, too."""
    flat(base)
    path = base / "preprocessor_config.json"
    own = json.loads(path.read_text())
    own["size"] = {"min_pixels": 256, "max_pixels": 9216}
    path.write_text(json.dumps(own))


def both(base):
    """A section and an older file beside it, which disagree."""
    old = json.loads((base / "processor_config.json").read_text())["image_processor"]
    (base / "preprocessor_config.json").write_text(json.dumps(old | {"max_pixels": 4096}))


@pytest.mark.parametrize("layout", [nested, flat, named_in_size, both])
@pytest.mark.parametrize("bounds", [{"max_pixels": 2048}, {"min_pixels": 4096}, {}])
def test_whoever_loads_a_checkpoint_makes_as_many_image_tokens_as_the_run(tmp_path, layout, bounds):
    base = copy_of_tiny(tmp_path / "base")
    layout(base)
    cfg = config_of(base, model=bounds)
    directory = published(cfg, base, tmp_path / "weights")
    prompter, plain = Prompter(cfg.model, cfg.prompt), AutoProcessor.from_pretrained(directory)
    alone = AutoImageProcessor.from_pretrained(directory)
    # Trainers of the next round read the published files, engines the base's: both with the bounds.
    trainers = [Pictures(str(path), cfg.model) for path in (base, directory)]
    for size in ((400, 300), (20, 12), (96, 96)):
        path = str(tmp_path / f"{size[0]}.png")
        Image.new("RGB", size, "white").save(path)
        expected = prompter.num_image_tokens(path)
        text = plain.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], tokenize=False
        )
        ids = plain(text=[text], images=[Image.open(path)], return_tensors="pt")["input_ids"]
        assert int((ids == plain.image_token_id).sum()) == expected
        grid = alone(images=[Image.open(path)], return_tensors="pt")["image_grid_thw"]
        assert int(grid.prod()) // alone.merge_size**2 == expected
        assert [t.get(path).num_tokens for t in trainers] == [expected, expected]


def test_without_bounds_in_the_config_the_processors_files_are_the_bases(tmp_path):
    base = copy_of_tiny(tmp_path / "base")
    directory = published(config_of(base), base, tmp_path / "weights")
    name = "processor_config.json"
    assert (directory / name).read_bytes() == (base / name).read_bytes()


# -- sampling --------------------------------------------------------------------------------------


def test_the_generation_config_says_how_the_run_sampled(with_extra):
    *_, first, second = with_extra
    for directory in (first, second):
        found = GenerationConfig.from_pretrained(directory)
        assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 0.7, 0.9, 0)
        assert found.max_new_tokens == 100
        assert found.eos_token_id == [1039, 1037] and found.pad_token_id == 1037


@pytest.mark.parametrize(
    ("known", "expected"), [(None, [1039]), (1037, [1039, 1037]), (1039, [1039])]
)
def test_responses_can_end_with_the_token_that_was_trained(known, expected):
    base = GenerationConfig(eos_token_id=known)
    found = generation_settings(base, SamplingConfig(max_tokens=5), END_ID)
    assert found["eos_token_id"] == expected


def test_a_greedy_run_is_published_as_greedy(tmp_path):
    sampling = SamplingConfig(temperature=0.0, top_k=5, max_tokens=5)
    settings = generation_settings(GenerationConfig(), sampling, END_ID)
    GenerationConfig(**settings).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).do_sample is False


def test_a_generation_config_of_the_base_that_cannot_be_saved_does_no_harm(tmp_path):
    """transformers loads such a file with a warning, and refuses to write it."""
    base = copy_of_tiny(tmp_path / "base", generation_config=lambda c: c.update(temperature=0.5))
    directory = published(config_of(base), base, tmp_path / "weights")
    assert GenerationConfig.from_pretrained(directory).temperature == 0.7


# -- the card --------------------------------------------------------------------------------------


def front_matter(directory):
    text = (directory / "README.md").read_text()
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1]), text


def test_the_card_is_the_checkpoints_own_with_the_bases_licence(with_extra):
    _, _, *versions = with_extra
    for number, directory in enumerate(versions):
        facts, text = front_matter(directory)
        assert facts["license"] == "apache-2.0" and "license_link" not in facts
        assert facts["pipeline_tag"] == "image-text-to-text" and "base_model" not in facts
        assert "The base's own words" not in text and f"round {number}" in text
        assert all(f"- `{name}`" in text for name in EXTRA)
        assert "| 3 | 12 | 345 | 234 | 2.5000 | 1.2500 |" in text
        assert (directory / "LICENSE.txt").read_text() == "terms"


def test_the_card_names_models_and_data_of_the_hub(tmp_path, monkeypatch):
    base = copy_of_tiny(tmp_path / "base")
    monkeypatch.setattr("virgo_ray.train.export.resolve_model", lambda *args: str(base))
    mixed = {
        "reader": "mix",
        "parts": [
            {"reader": "geometry3k", "path": "hiyouga/geometry3k", "num": 2},
            {"reader": "jsonl", "path": "/home/somebody/secret_project/shapes.jsonl", "num": 2},
        ],
    }
    heldout = {"reader": "mathverse", "path": "AI4Math/MathVerse"}
    seeds = {"reader": "hub", "path": "RUC-AIBOX/long_form_thought_data_5k"}
    cfg = config_of(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        data={"train": mixed, "heldout": heldout, "seed_thoughts": seeds},
    )
    facts, text = front_matter(published(cfg, base, tmp_path / "weights"))
    assert facts["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert facts["datasets"] == ["RUC-AIBOX/long_form_thought_data_5k", "hiyouga/geometry3k"]
    assert "- held-out problems: `AI4Math/MathVerse`" in text
    assert "- problems: `shapes` (a local copy)" in text


def test_no_path_host_or_key_is_in_the_card(tmp_path):
    base = copy_of_tiny(tmp_path / "private_base")
    source = {"reader": "jsonl", "path": str(tmp_path / "rows.jsonl"), "image_dir": str(tmp_path)}
    judge = {"url": "http://10.1.2.3:8000/v1", "model": "/models/judge", "key_env": "JUDGE_KEY"}
    cfg = config_of(
        base,
        run_dir=str(tmp_path / "run"),
        data={"train": source, "heldout": source, "seed_thoughts": source, "cache_dir": "/scratch"},
        verify={"second_opinions": ["judge"], "judge": judge, "custom": "http://grader.lan/grade"},
        teacher={"url": "http://teacher.lan/v1", "model": "big", "key_env": "TEACHER_KEY"},
        ray={"address": "ray://head.lan:10001"},
        wandb={"entity": "somebody", "project": "secret"},
        store={},
    )
    _, text = front_matter(published(cfg, base, tmp_path / "weights"))
    secrets = (
        str(tmp_path), "/models", "/scratch", "10.1.2.3", ".lan", "_KEY", "somebody", "secret",
        "http", socket.gethostname(), str(Path.home()),
    )  # fmt: skip
    assert not [word for word in secrets if word in text]


@pytest.mark.parametrize(
    "card", ["# No front matter\n", "---\nlicense: [\n---\n", "---\njust words\n---\n", "\xff"]
)
def test_a_card_of_the_base_that_says_nothing_is_no_obstacle(tmp_path, card):
    base = copy_of_tiny(tmp_path / "base")
    (base / "README.md").write_bytes(card.encode("latin-1"))
    facts, text = front_matter(published(config_of(base), base, tmp_path / "weights"))
    assert "license" not in facts and "names no licence" in text


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("imitation", 2, "keeps the responses that are right"),
        ("grpo", 1, "keeps the responses that are right"),
        ("grpo", 2, "by a policy gradient relative to their group (GRPO"),
        ("dpo", 2, "in pairs of one that is preferred to another (DPO"),
        ("rloo", 2, "(RLOO"),
        ("reward_weighted", 2, "weighted by their reward"),
    ],
)
def test_a_card_names_the_method_of_its_round(tmp_path, name, version, said):
    cfg = config_of("tiny", run_dir=str(tmp_path), train={"objective": {"name": name}})
    report = FitReport(Weights(version, "w"), 3, 12, 345, 234, 2.5, 1.25, 6.0)
    text = model_card(cfg, tmp_path, report, "Tiny", ())
    assert said in text and ("that are right" in text) == said.endswith("that are right")
