"""What describes a model is fetched and read first; its weights only where they are needed."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest

from virgo_ray.config import ModelConfig, PromptConfig
from virgo_ray.data.__main__ import main
from virgo_ray.errors import ConfigError
from virgo_ray.model import files
from virgo_ray.model.files import check_local, describe_model, hash_description, resolve_model
from virgo_ray.model.prompts import Prompter

HUB_ID = "owner/name"
SMALL = ("data.train.num=2", "data.heldout.num=2", "data.seed_thoughts.num=2")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub, with the tiny model: gives the names of what was fetched, call by
    call."""
    calls = []

    def download(repo_id, allow_patterns):
        directory = tmp_path / "hub"
        directory.mkdir(exist_ok=True)
        wanted = [
            file for file in files.TINY_DIRECTORY.iterdir()
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns)
        ]  # fmt: skip
        for file in wanted:
            shutil.copy(file, directory)
        calls.append({file.name for file in wanted})
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


@pytest.fixture
def described(tmp_path):
    """The tiny model without its weights."""
    return shutil.copytree(
        files.TINY_DIRECTORY, tmp_path / "described", ignore=shutil.ignore_patterns("*.safetensors")
    )


def test_prompts_need_no_weights_and_fetch_none(hub):
    cfg = ModelConfig(path=HUB_ID, max_length=512)
    Prompter(cfg, PromptConfig()).check_model()
    assert hub and not any(name.endswith(".safetensors") for call in hub for name in call)
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= hub[0]
    resolve_model(HUB_ID)
    assert "model.safetensors" in hub[-1] and hub[0] < hub[-1]


def test_inspect_fetches_no_weights(hub, tmp_path, capsys):
    words = ["inspect", "configs/tiny.yaml", f"model.path={HUB_ID}", f"run_dir={tmp_path}/run"]
    assert main([*words, *SMALL]) == 0
    assert "no bad rows" in capsys.readouterr().out
    assert hub and not any(name.endswith(".safetensors") for call in hub for name in call)


def test_inspect_works_without_weights_in_the_directory(described, tmp_path, capsys):
    words = ["inspect", "configs/tiny.yaml", f"model.path={described}", f"run_dir={tmp_path}/run"]
    assert main([*words, *SMALL]) == 0
    (described / "config.json").unlink()
    assert main([*words, *SMALL]) == 2
    assert "lacks config.json; give what" in capsys.readouterr().err


def test_what_lies_here_is_refused_before_the_hub_is_asked(hub, described):
    check_local(HUB_ID)
    check_local("tiny")
    for path in (str(described), "./nowhere", "tini"):
        with pytest.raises(ConfigError):
            check_local(path)
    assert not hub and describe_model(str(described)) == str(described)


def test_the_hash_of_a_description_changes_with_the_template_and_not_with_weights(described):
    before = hash_description(str(described))
    (described / "model.safetensors").write_bytes(b"weights")
    (described / "model.safetensors.index.json").write_text("{}")
    assert hash_description(str(described)) == before
    template = described / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert (
        hash_description(str(described))
        != before
        == hash_description(str(Path(files.TINY_DIRECTORY)))
    )
