"""The type of a key that names a function of the user's."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from virgo_ray.config.importing import IMPORT_PATH, is_import_path


def _is_own(name: str) -> str:
    if not is_import_path(name):
        raise ValueError(f"{name!r} is not of the form `package.module:function`")
    return name


OWN_FUNCTION_SCHEMA = {"type": "string", "pattern": f"^{IMPORT_PATH.pattern}$"}
OwnFunction = Annotated[str, AfterValidator(_is_own), WithJsonSchema(OWN_FUNCTION_SCHEMA)]
