"""`include:` in a config file: other files first, then what the file says itself.

    include: [parts/common.yaml, parts/size_7b.yaml]   # one name or several, relative to this file
    train: {lr: 7.0e-6}

Sections are merged key by key; a later file wins over an earlier one, the including file over all
it includes, an override over everything. Lists are replaced, not joined, and so is a source: a
section that names its `reader` starts anew, without the `split` or `num` of another. Knows no
schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from virgo_ray.config.misread import refuse_misread
from virgo_ray.config.shipped import find_config, list_shipped
from virgo_ray.errors import ConfigError

INCLUDE = "include"
READER = "reader"  # the key that makes a section a source


@dataclass(frozen=True)
class Part:
    """What one file says itself, without what it includes."""

    path: str
    content: DictConfig


def read_parts(path: str, chain: Sequence[str] = ()) -> list[Part]:
    """The files that make up a config, the strongest last; a file may be there twice. A bare name
    is that of a shipped config.

    `chain` are the files that include this one, the outermost first.

    Raises:
        ConfigError: a file is missing or malformed, or includes itself; the message names the
        chain of files that led there.
    """
    path = find_config(path)
    seen = [Path(p).resolve() for p in chain]
    if Path(path).resolve() in seen:
        raise ConfigError(
            f"config file {path!r} includes itself: {_route([*chain, path])}; "
            "take one of these includes out"
        )
    return _with_included(path, _read(path, chain), chain)


def make_parts(raw: Mapping[str, Any], origin: str) -> list[Part]:
    """As `read_parts`, for plain values in place of the outermost file; what they include is
    relative to where the command runs.

    Raises:
        ConfigError: as `read_parts`, or there is a value that no YAML file can hold.
    """
    try:
        content = OmegaConf.create(dict(raw))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin} cannot be read: {error}; expected plain values") from error
    return _with_included(origin, content, ())


def _with_included(path: str, content: DictConfig, chain: Sequence[str]) -> list[Part]:
    names = _names(content.pop(INCLUDE, None), path)
    files = [_included(path, name) for name in names]
    return [*(p for file in files for p in read_parts(file, [*chain, path])), Part(path, content)]


def _included(path: str, name: str) -> str:
    """The file that `path` includes as `name`: beside it, or of the shipped configs."""
    beside = _beside(path, name)
    is_shipped = not Path(beside).is_file() and find_config(name) != name
    return name if is_shipped else beside


def merged(parts: Sequence[Part]) -> DictConfig:
    """All parts as one mapping.

    Raises:
        ConfigError: a file has a section where another has a value.
    """
    whole: Any = OmegaConf.create({})
    for part in parts:
        try:
            whole = merge(whole, part.content)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{part.path} cannot be merged: {error}") from error
    assert isinstance(whole, DictConfig)
    return whole


def merge(whole: Any, content: DictConfig) -> Any:
    """`content` over `whole`, whose sources go where `content` names the reader of another."""
    _drop_sources(whole, content)
    return combine(whole, content)


def combine(whole: Any, content: Any) -> Any:
    """`content` over `whole`; a name that stands alone for a section stays its name."""
    spell_out(whole, content)
    return OmegaConf.merge(whole, content)


def spell_out(whole: Any, content: Any) -> None:
    """Where `content` has a section and `whole` a text in its place (`train.objective: grpo`),
    make that the section's name: the section would take its place."""
    for key in content if isinstance(content, DictConfig) else ():
        if not isinstance(whole, DictConfig) or key not in whole:
            continue
        held, inner = whole._get_node(key), content._get_node(key)
        if isinstance(inner, DictConfig) and isinstance(whole[key], str):
            whole[key] = {"name": whole[key]}
        else:
            spell_out(held, inner)


def _drop_sources(whole: Any, content: Any) -> None:
    for key in content if isinstance(content, DictConfig) else ():
        if not isinstance(whole, DictConfig) or key not in whole:
            continue
        inner = content._get_node(key)
        if isinstance(inner, DictConfig) and READER in inner:
            del whole[key]
        else:
            _drop_sources(whole._get_node(key), inner)


def find_part(parts: Sequence[Part], loc: Sequence[Any]) -> str:
    """The file that has the last word on a key; empty where no file names it."""
    return next((part.path for part in reversed(parts) if _holds(part.content, loc)), "")


def _read(path: str, chain: Sequence[str]) -> DictConfig:
    if Path(path).is_dir():
        raise ConfigError(f"config file {path!r} is a directory; expected a YAML file in it")
    if not Path(path).is_file():
        raise ConfigError(_missing(path, chain))
    included = f" (included by {_route(chain)})" if chain else ""
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}{included} cannot be read as YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}{included} holds a list, expected a mapping of sections")
    refuse_misread(Path(path).read_text(encoding="utf-8"), path)
    return loaded


def _names(value: Any, path: str) -> list[str]:
    names = [value] if isinstance(value, str) else [] if value is None else value
    is_list = isinstance(names, list | ListConfig)
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{path}: {INCLUDE}={value!r}; expected a file name or a list of them, "
            "such as [parts/common.yaml]"
        )
    return list(names)


def _beside(path: str, name: str) -> str:
    """A name relative to the file that includes it, without the `..` that can be done without."""
    found = Path(name).expanduser()
    if found.is_absolute():
        return str(found)
    parts: list[str] = []
    for step in (Path(path).parent / found).parts:
        if step == ".." and parts and parts[-1] not in ("..", "/"):
            parts.pop()
        else:
            parts.append(step)
    return str(Path(*parts))


def _missing(path: str, chain: Sequence[str]) -> str:
    if chain:
        known = [str(p) for p in Path(path).parent.glob("*.yaml")]
        expected = f"it is included by {_route(chain)}; names are relative to the including file"
    else:
        known = [str(p) for p in Path("configs").glob("**/*.yaml")]
        expected = (
            "expected a YAML file such as configs/tiny.yaml, or the name of a shipped one: "
            f"{', '.join(name for name in list_shipped() if '/' not in name)}"
        )
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"config file {path!r} does not exist; {expected}{hint}"


def _route(chain: Sequence[str]) -> str:
    return " -> ".join(chain)


def _holds(content: Any, loc: Sequence[Any]) -> bool:
    for step in loc:
        try:
            if (isinstance(content, DictConfig) and step in content) or (
                isinstance(content, ListConfig) and isinstance(step, int) and step < len(content)
            ):
                content = content._get_node(step)
            else:
                return False
        except OmegaConfBaseException:
            return False
    return True
