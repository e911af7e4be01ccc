"""A config file with a comment on every key, made of a shipped config and the schema.

What the shipped config says, with all it includes, stands in one file; core keys that it does not
set stand there too, commented out, with their defaults. Loading the text gives the same config.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel

from virgo_ray.config.including import merged, read_parts
from virgo_ray.config.keys import is_core_key, meaning_of, section_in
from virgo_ray.config.schema import SCHEMA, schema_line
from virgo_ray.config.shipped import SHIPPED, find_config
from virgo_ray.config.whole import Config

WIDTH = 100
COMMENT = "# "


def commented_config(source: str, name: str) -> str:
    """The text of a config of one's own, called `name`, that begins as `source` (a file, or the
    name of a shipped config) is.

    Raises:
        ConfigError: there is no such config.
    """
    raw = OmegaConf.to_container(merged(read_parts(source)), resolve=False)
    assert isinstance(raw, dict)
    content = {str(key): value for key, value in raw.items()}
    content |= {"name": name, "run_dir": f"runs/{name}"}
    head = [schema_line(SHIPPED / SCHEMA), *_remarks(find_config(source))]
    return "\n".join([*head, "", *_lines(Config, content, "", "")]) + "\n"


def _remarks(path: str) -> Iterator[str]:
    """The comments that a file begins with."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        if "yaml-language-server" not in line:
            yield from _comment(line.removeprefix("#").strip(), "")


def _lines(
    section: type[BaseModel], content: Mapping[str, Any], prefix: str, indent: str
) -> Iterator[str]:
    for key, field in section.model_fields.items():
        dotted, inner = f"{prefix}{key}", section_in(field.annotation)
        is_section = inner is not None and isinstance(content.get(key), Mapping)
        if key in content:
            if not prefix:
                yield ""
            yield from _comment(meaning_of(field, inner), indent)
            if inner is not None and is_section and not _is_mapping_of(field.annotation):
                yield f"{indent}{key}:"
                yield from _lines(inner, content[key], f"{dotted}.", f"{indent}  ")
            else:
                yield f"{indent}{key}: {_value(content[key])}"
        elif inner is None and is_core_key(dotted) and not field.is_required():
            yield from _comment(meaning_of(field, None), indent)
            yield f"{indent}# {key}: {_value(field.default)}"


def _is_mapping_of(annotation: Any) -> bool:
    """Whether a field holds sections under names of the user's."""
    return str(annotation).startswith("dict")


def _comment(text: str, indent: str) -> list[str]:
    lead = f"{indent}{COMMENT}"
    return textwrap.wrap(
        text, WIDTH, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _value(value: Any) -> str:
    """A value in one line, as YAML reads it back.

    >>> _value(7e-6), _value([0.1, 0.9]), _value(None)
    ('7.0e-06', '[0.1, 0.9]', 'null')
    """
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()
