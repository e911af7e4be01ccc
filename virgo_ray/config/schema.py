"""The JSON schema of a config file, for editors: completion, meanings on hover, early errors.

`python -m virgo_ray.config.schema` writes it beside the shipped configs and has each of them name
it. Nothing is required in it, because a file may include others.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from virgo_ray.config.shipped import SHIPPED, SUFFIX
from virgo_ray.config.whole import Config

SCHEMA = "schema.json"
MARK = "# yaml-language-server: $schema="
INCLUDE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "other config files, relative to this one, or names of shipped configs; later "
    "ones win, and this file over all of them",
}


def make_schema() -> dict[str, Any]:
    """The schema of a file."""
    schema = _without_required(Config.model_json_schema())
    schema["properties"] = {"include": INCLUDE, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    return json.dumps(make_schema(), indent=1) + "\n"


def schema_line(path: Path | str) -> str:
    """The comment by which an editor finds the schema."""
    return f"{MARK}{path}"


def name_schema(config: Path) -> str:
    """The text of a shipped config with the line that names its schema on top."""
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith(MARK)]
    relative = os.path.relpath(SHIPPED / SCHEMA, config.parent)
    return "".join([schema_line(relative) + "\n", *rest])


def _without_required(value: Any) -> Any:
    """Without what must be there; a property of that name is a mapping and stays."""
    if isinstance(value, dict):
        return {
            key: _without_required(inner)
            for key, inner in value.items()
            if not (key == "required" and isinstance(inner, list))
        }
    return [_without_required(item) for item in value] if isinstance(value, list) else value


def main() -> int:
    """Write the schema and the lines that name it."""
    (SHIPPED / SCHEMA).write_text(schema_text(), encoding="utf-8")
    for config in sorted(SHIPPED.rglob(f"*{SUFFIX}")):
        config.write_text(name_schema(config), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
