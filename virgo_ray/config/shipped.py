"""The configs that come with the package, by name: `tiny` is `configs/tiny.yaml`.

They lie in `virgo_ray/configs`, which in a checkout is a link to `configs/` and in an installed
package holds copies.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "configs"
SUFFIX = ".yaml"


def list_shipped() -> list[str]:
    """The names of all configs that are whole runs, sorted."""
    found = (path.relative_to(SHIPPED) for path in SHIPPED.rglob(f"*{SUFFIX}"))
    return sorted(str(path.with_suffix("")) for path in found if "parts" not in path.parts)


def find_config(name: str) -> str:
    """The file that a name stands for: a path as it is, a bare name as the shipped config of that
    name; a name that stands for nothing stays what it is.

    >>> find_config("runs/mine.yaml"), find_config("tiny").endswith("virgo_ray/configs/tiny.yaml")
    ('runs/mine.yaml', True)
    """
    path = Path(name)
    if path.suffix or path.is_absolute() or ".." in path.parts or path.is_file():
        return name
    shipped = SHIPPED / f"{name}{SUFFIX}"
    return str(shipped) if name and shipped.is_file() else name
