"""Values that YAML reads as something else than they look like: refused, with what was read.

`010` is 8 and `1:30` is 90 in YAML 1.1, and in double quotes `\\b` or `\\f` are control characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from virgo_ray.config.escapes import find_command, find_control
from virgo_ray.errors import ConfigError

_OCTAL = re.compile("[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


def refuse_misread(text: str, where: str) -> None:
    """Look at every value of a YAML text that can be parsed.

    Raises:
        ConfigError: one is not what it looks like; `where` names the file or the override.
    """
    for node in _scalars(yaml.compose(text, Loader=yaml.SafeLoader)):
        problem = _problem(node)
        if problem:
            line = node.start_mark.line + 1
            raise ConfigError(f"{where}, line {line}: {node.value!r:.80}: {problem}")


def _problem(node: yaml.ScalarNode) -> str:
    is_plain = node.style is None
    if is_plain and _OCTAL.fullmatch(node.value):
        return "a number that begins with 0 is octal in YAML; leave the 0 out, or put it in quotes"
    if is_plain and _SEXAGESIMAL.fullmatch(node.value):
        return "YAML reads it as a number of base 60; put it in quotes"
    damage = find_control(node.value) or find_command(node.value)
    return f"{damage}, or use single quotes" if damage else ""


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)
