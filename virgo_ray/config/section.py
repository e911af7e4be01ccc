"""What every section of the config is: frozen, and an unknown key in it is an error."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of the config; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and on as true, which would be taken for the number 1."""
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)]):
            raise ValueError("expected another value; yes, no, on, off are truth values in YAML")
        return value


def _takes_bool(field: Any) -> bool:
    kinds = (field.annotation, *get_args(field.annotation))
    return bool in kinds or any(isinstance(kind, bool) for kind in kinds)
