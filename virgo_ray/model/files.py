"""Where a model's files are: the bundled tiny model, a local directory, or the Hugging Face hub.

`describe_model` guarantees a directory with a config; it fetches from the hub what describes a
model (configuration, tokenizer, processor, template), which takes seconds. `resolve_model`
guarantees whole safetensors weights too, which may take an hour. Python files are fetched only
where the config allows code that comes with the model; pickled weights never are. Knows nothing of
what the model can do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from virgo_ray.errors import ConfigError
from virgo_ray.model.dropped import say_dropped

TINY = "tiny"
TINY_DIRECTORY = Path(__file__).parent.parent / "tiny" / "model"
WEIGHTS = "*.safetensors"
DESCRIPTION = (
    "*.json",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "README.md",  # its licence goes onto the card of what is made from it
)
NOT_DESCRIBING = (".index.json", "manifest.json", "probe.json", "README.md")  # of the weights


def describe_model(path: str, trust_remote_code: bool = False, key: str = "model.path") -> str:
    """The directory of what describes the model; `path` and `key` are as for `resolve_model`.

    Raises:
        ConfigError: there is no such model, or it has no config.json.
    """
    return _find(path, trust_remote_code, key, needs_weights=False)


def resolve_model(path: str, trust_remote_code: bool = False, key: str = "model.path") -> str:
    """The directory of `model.path`: `tiny`, a directory, or a hub id such as `Qwen/Qwen2-VL-7B`.

    `key` is what messages call it.

    Raises:
        ConfigError: there is no such model, or its directory holds no whole safetensors weights.
    """
    return _find(path, trust_remote_code, key, needs_weights=True)


def check_local(path: str, key: str = "model.path") -> None:
    """Refuse what neither lies here, with whole weights, nor can be on the hub; nothing is fetched.

    Raises:
        ConfigError: as `resolve_model`.
    """
    if Path(path).expanduser().is_dir() or not may_be_on_hub(path):
        resolve_model(path, key=key)


def hash_description(directory: str) -> str:
    """A hash of the files that describe the model in `directory`."""
    patterns = (*DESCRIPTION, "*.py")
    found = sorted({path for pattern in patterns for path in Path(directory).glob(pattern)})
    digest = hashlib.sha256()
    for path in found:
        if not path.name.endswith(NOT_DESCRIBING):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _find(path: str, trust_remote_code: bool, key: str, needs_weights: bool) -> str:
    named = f"{key}={path!r}"
    if path == TINY:
        return _check(TINY_DIRECTORY, named, "install virgo_ray again", needs_weights)
    directory = Path(path).expanduser()
    if directory.is_dir():
        advice = "give what `save_pretrained` wrote"
        return _check(directory.resolve(), named, advice, needs_weights)
    if not may_be_on_hub(path):
        raise ConfigError(
            f"{named} is no directory; expected 'tiny', a local directory, or a "
            "Hugging Face id of the form owner/name"
        )
    wanted = [*DESCRIPTION, *(["*.py"] if trust_remote_code else [])]
    found = _download(path, [WEIGHTS, *wanted] if needs_weights else wanted, key)
    return _check(found, named, "choose a model with safetensors", needs_weights)


def may_be_on_hub(path: str) -> bool:
    """Whether a text that names no directory here is an id of the hub."""
    return path != TINY and not path.startswith((".", "/", "~")) and path.count("/") == 1


def _check(directory: Path, named: str, advice: str, needs_weights: bool) -> str:
    if not needs_weights:
        if not (directory / "config.json").is_file():
            raise ConfigError(f"{named}: {directory} lacks config.json; {advice}")
        return str(directory)
    if said := say_dropped(directory):
        raise ConfigError(f"{named}: {said}; name a version that is kept")
    has_weights = next(directory.glob(WEIGHTS), None) is not None
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
    for file in sorted(directory.glob(WEIGHTS)):
        try:
            with safe_open(file, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is not whole ({error})"
    return ""


def _download(repo_id: str, files: Sequence[str], key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{key}={repo_id!r} is no local directory and could not be fetched from the "
            f"Hugging Face hub ({type(error).__name__}: {error}); check the name and the network, "
            "log in for gated models, or give a local directory"
        ) from error
