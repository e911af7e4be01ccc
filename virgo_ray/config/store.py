"""Where traces are kept."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model, field_validator

from virgo_ray.config.places import resolve_place
from virgo_ray.config.section import Section
from virgo_ray.errors import ConfigError

# A storage option whose name holds one of these is a credential.
SECRET_WORDS = (
    "secret", "token", "password", "access_key", "account_key", "api_key", "credential",
    "service_account", "sas_",
)  # fmt: skip


# `from` is a word of Python's own, so this field cannot be written as the others are.
_Origin: type[Section] = create_model(
    "_Origin",
    __base__=Section,
    **{
        "from": (
            str | None,
            Field(
                None,
                description="run whose rollouts a new run begins with, judged again: its run "
                "directory, or the address of its store; null: none",
            ),
        )
    },  # type: ignore[call-overload]
)


class StoreConfig(_Origin):  # type: ignore[misc, valid-type]
    """Where the replay buffer lies. Nothing secret may stand here: config.yaml keeps it."""

    path: str | None = Field(
        None,
        description="where traces are stored: a directory (a relative one is found as run_dir "
        "is), or an s3:// or gs:// address; null: `buffer.lance` in the run directory",
    )
    storage_options: dict[str, str] = Field(
        {},
        description="Lance's options for the store, such as {region: eu-west-1}; credentials come "
        "from the environment only",
    )

    @property
    def origin(self) -> str | None:
        """The run that `store.from` names."""
        found: str | None = getattr(self, "from")
        return found

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        """Once resolved, a path means the same wherever the next command is started."""
        if not path or "://" in path:
            return path
        try:
            return str(resolve_place(path, "store.path"))
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("storage_options", mode="before")
    @classmethod
    def _is_public(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        secret = [key for key in options if any(word in str(key).lower() for word in SECRET_WORDS)]
        if secret:
            raise ValueError(
                f"{secret[0]} is a credential; leave it out and set it in the environment "
                "(such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or "
                "GOOGLE_APPLICATION_CREDENTIALS)"
            )
        words = {True: "true", False: "false"}
        return {
            str(k): words[v] if isinstance(v, bool) else str(v) if isinstance(v, int) else v
            for k, v in options.items()
        }
