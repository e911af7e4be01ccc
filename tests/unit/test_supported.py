"""What is said of a base before anything is started or loaded."""

from __future__ import annotations

import json

import pytest
import torch
from base_models import config_of, copy_of_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import virgo_ray.run
from virgo_ray.errors import ConfigError
from virgo_ray.train.supported import check_base
from virgo_ray.weights.layout import read_layout

UP = "model.layers.1.mlp.up_proj.weight"


def remarks(base, **sections):
    return check_base(config_of(base, **sections), str(base))


def test_nothing_is_said_of_a_base_that_its_class_builds_whole(tmp_path):
    assert remarks(copy_of_tiny(tmp_path / "base")) == []
    assert remarks(tmp_path / "base", train={"lora": {"rank": 4}}) == []


def test_tensors_that_the_class_does_not_build_are_named(tmp_path):
    extra = {
        "mtp.fc.weight": torch.zeros(8, 8),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(16),
    }
    base = copy_of_tiny(tmp_path / "base", lambda weights: weights.update(extra))
    (remark,) = remarks(base)
    assert "Qwen2_5_VLForConditionalGeneration does not build 2 of its tensors" in remark
    assert all(name in remark for name in extra)


def test_a_missing_tensor_is_refused_by_the_name_it_has_on_disk(tmp_path):
    base = copy_of_tiny(tmp_path / "base", lambda weights: weights.pop(UP))
    with pytest.raises(ConfigError, match=f"1 tensors of .* are missing in its files: {UP}"):
        remarks(base)


def test_a_reshaped_tensor_is_refused_with_both_shapes(tmp_path):
    base = copy_of_tiny(tmp_path / "base", lambda w: w.update({UP: torch.zeros(3, 5)}))
    with pytest.raises(ConfigError, match=rf"{UP} has \[3, 5\], expected \[320, 128\]"):
        remarks(base)


def test_a_config_of_another_size_is_refused(tmp_path):
    def deepen(config):
        config["text_config"]["num_hidden_layers"] = 5
        config["text_config"]["layer_types"].append("full_attention")

    base = copy_of_tiny(tmp_path / "base", config=deepen)
    with pytest.raises(ConfigError, match=r"model\.layers\.4\..* and 4 more"):
        remarks(base)


def test_a_config_that_contradicts_itself_is_refused(tmp_path):
    base = copy_of_tiny(
        tmp_path / "base", config=lambda c: c["text_config"].update(num_hidden_layers=5)
    )
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        remarks(base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen9_vl", "architectures": ["Qwen9VL"]}, r"is Qwen9VL \(model_type 'qw"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "is GPT2LMHeadModel"),
        ({"model_type": "llava", "architectures": ["Llava"]}, "is a LlavaForConditionalGeneration"),
        ({"quantization_config": {"quant_method": "awq"}}, "is quantised .quant_method 'awq'"),
    ],
)
def test_what_the_trainer_cannot_train_is_refused_with_what_is_expected(tmp_path, change, message):
    base = copy_of_tiny(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    if "model_type" in change:
        config = {}
    (base / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message) as refusal:
        remarks(base)
    assert "expected" in str(refusal.value)


def test_adapters_that_would_match_nothing_are_refused(tmp_path):
    base = copy_of_tiny(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"target_modules=.* matches no module of .*down_proj"):
        remarks(base, train={"lora": {"target_modules": r"h\.\d+"}})


def test_adapters_of_the_output_layer_are_refused(tmp_path):
    base = copy_of_tiny(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"matches the output layer lm_head"):
        remarks(base, train={"lora": {"target_modules": r".*(_proj|lm_head)"}})


def test_a_stored_copy_of_a_tied_embedding_is_no_extra_tensor(tmp_path):
    embedding = "model.embed_tokens.weight"
    base = copy_of_tiny(
        tmp_path / "same", lambda w: w.update({"lm_head.weight": w[embedding].clone()})
    )
    assert remarks(base) == []
    other = copy_of_tiny(
        tmp_path / "other", lambda w: w.update({"lm_head.weight": w[embedding] + 1})
    )
    with pytest.raises(ConfigError, match=r"lm_head\.weight and model\.embed_tokens\.weight diff"):
        remarks(other)


def test_names_as_newer_versions_of_transformers_save_them_are_known(tmp_path):
    base = copy_of_tiny(tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.save_pretrained(base, save_original_format=False)
    names = load_file(base / "model.safetensors")
    assert "model.language_model.norm.weight" in names
    assert remarks(base) == []
    assert read_layout(base, False, "m").parameters.keys() == names.keys()


def test_weights_in_another_format_beside_them_are_not_counted(tmp_path):
    base = copy_of_tiny(tmp_path / "base")
    save_file({"layers.0.wq": torch.zeros(2)}, base / "consolidated.safetensors")
    assert remarks(base) == []


def test_the_command_refuses_such_a_base_before_it_starts_anything(tmp_path, monkeypatch, capsys):
    def started(cfg):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(virgo_ray.run, "connect_cluster", started)
    base = copy_of_tiny(tmp_path / "base", lambda weights: weights.pop(UP))
    words = [f"model.path={base}", f"run_dir={tmp_path}/run", "wandb.mode=disabled"]
    assert virgo_ray.run.main(["configs/tiny.yaml", *words]) == 2
    assert UP in capsys.readouterr().err
    assert not (tmp_path / "run" / "ledger.json").exists()
