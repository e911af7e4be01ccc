"""Where a model's files are: the bundled tiny model, a local directory, or the Hugging Face hub.

Guarantees a directory that holds a config and whole safetensors weights. Of a hub model only
weights, configuration and tokenizer files are fetched, and Python files only where the config
allows code that comes with the model; pickled weights never are. Knows nothing of what the model
can do.
"""

from __future__ import annotations

import json
from pathlib import Path

from virgo_ray.errors import ConfigError

TINY = "tiny"
TINY_DIRECTORY = Path(__file__).parent.parent / "tiny" / "model"
HUB_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "README.md",  # its licence goes onto the card of what is made from it
)


def resolve_model(path: str, trust_remote_code: bool = False, key: str = "model.path") -> str:
    """The directory of `model.path`: `tiny`, a directory, or a hub id such as `Qwen/Qwen2-VL-7B`.

    `key` is what messages call it.

    Raises:
        ConfigError: there is no such model, or its directory holds no whole safetensors weights.
    """
    if path == TINY:
        return _check(TINY_DIRECTORY, f"{key}={path!r}", "install virgo_ray again")
    directory = Path(path).expanduser()
    if directory.is_dir():
        return _check(directory.resolve(), f"{key}={path!r}", "give what `save_pretrained` wrote")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ConfigError(
            f"{key}={path!r} is no directory; expected 'tiny', a local directory, or a "
            "Hugging Face id of the form owner/name"
        )
    found = _download(path, trust_remote_code, key)
    return _check(found, f"{key}={path!r}", "choose a model with safetensors")


def _check(directory: Path, named: str, advice: str) -> str:
    has_weights = next(directory.glob("*.safetensors"), None) is not None
    if not has_weights or not (directory / "config.json").is_file():
        raise ConfigError(f"{named}: {directory} lacks config.json or *.safetensors; {advice}")
    if fault := _torn(directory):
        raise ConfigError(f"{named}: {directory / fault}; fetch the model again")
    return str(directory)


def _torn(directory: Path) -> str:
    """The first file of weights that is missing or not whole, and why; only headers are read."""
    from safetensors import SafetensorError, safe_open

    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{index.name} cannot be read ({type(error).__name__}: {error})"
        missing = sorted(name for name in shards if not (directory / name).is_file())
        if missing:
            return f"{missing[0]} is missing ({len(missing)} of {len(shards)} files)"
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is not whole ({error})"
    return ""


def _download(repo_id: str, trust_remote_code: bool, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [*HUB_FILES, "*.py"] if trust_remote_code else list(HUB_FILES)
    try:
        return Path(snapshot_download(repo_id, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{key}={repo_id!r} is no local directory and could not be fetched from the "
            f"Hugging Face hub ({type(error).__name__}: {error}); check the name and the network, "
            "log in for gated models, or give a local directory"
        ) from error
