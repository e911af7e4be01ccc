"""Sends files to a repository of the Hugging Face hub, all of them in one commit or none.

A repository is made private; it becomes public, if that is asked for, when everything is in it. An
existing one is only written to if it is as private as asked, and empty or to be replaced. The token
comes from the environment and is in no message. `HF_ENDPOINT` names another hub.

One commit, not `upload_folder`: that commits a large folder bit by bit, so an interrupted upload
leaves a model of which half is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from virgo_ray.errors import ConfigError, HubError
from virgo_ray.hub.content import File

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN = "HF_TOKEN"
ENDPOINT = "HF_ENDPOINT"
MOST_SAID = 400  # characters of the client's own words
MADE_BY_HUB = (".gitattributes",)
MAY_EXIST = (401, 402, 403, 409)  # answers to "create it" that a repository may be behind


@dataclass(frozen=True)
class Repository:
    """Where files go. `may_replace`: files that are there already may be deleted."""

    id: str
    kind: Literal["model", "dataset"]
    is_public: bool = False
    may_replace: bool = False


def find_token(repository: Repository) -> str:
    """What can be checked before anything is made for the hub.

    Raises:
        ConfigError: there is no token, or the name is none.
    """
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", repository.id):
        raise ConfigError(
            f"--push-to-hub {repository.id!r} is no name of a repository; expected OWNER/NAME, "
            "such as my-team/slow-thinker"
        )
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"--push-to-hub needs a token of the Hugging Face hub in {TOKEN}, which is not set; "
            "make one with write access (https://huggingface.co/settings/tokens) and export it"
        )
    return token


def push(repository: Repository, files: Sequence[File], message: str) -> str:
    """Publish `files`; returns the address of the repository.

    Raises:
        ConfigError: as `find_token`.
        HubError: the hub refuses or cannot be reached, or the repository is not to be written to.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    token = find_token(repository)
    api = HfApi(endpoint=os.environ.get(ENDPOINT), token=token, library_name="virgo_ray")
    where = f"{api.endpoint}/{'datasets/' * (repository.kind == 'dataset')}{repository.id}"
    with _explained(repository, token):
        present = _open(api, repository, where)
        names = {file.name for file in files}
        api.create_commit(
            repository.id,
            [
                *(CommitOperationAdd(file.name, file.content) for file in files),
                *(CommitOperationDelete(name) for name in present if name not in names),
            ],
            commit_message=message,
            repo_type=repository.kind,
        )
        if repository.is_public:
            api.update_repo_settings(repository.id, private=False, repo_type=repository.kind)
    return where


def _open(api: HfApi, repository: Repository, where: str) -> list[str]:
    """Make the repository, private, or find it; returns the files that it holds.

    Raises:
        HubError: it is there and is not to be written to.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(repository.id, repo_type=repository.kind, private=True)
        return []
    except HfHubHTTPError as error:
        if _status(error) not in MAY_EXIST:
            raise
        try:
            info = (
                api.dataset_info(repository.id)
                if repository.kind == "dataset"
                else api.model_info(repository.id)
            )
        except HfHubHTTPError:
            raise error from None
    if not info.private and not repository.is_public:
        raise HubError(
            f"{where} exists and everybody can read it, expected a private repository; choose "
            "another name, or add --public"
        )
    present = [sibling.rfilename for sibling in info.siblings or []]
    present = [name for name in present if name not in MADE_BY_HUB]
    if present and not repository.may_replace:
        raise HubError(
            f"{where} holds {len(present)} files already, the first is {sorted(present)[0]!r}; "
            "choose another name, or replace them with --overwrite"
        )
    return present


@contextmanager
def _explained(repository: Repository, token: str) -> Iterator[None]:
    """Turn what the hub's client raises into one error with advice.

    Raises:
        HubError: always in place of the client's errors.
    """
    from huggingface_hub import errors

    network: type[Exception] = errors.HTTPError  # the base of all that its HTTP client raises
    try:
        yield
    except (network, OSError, ValueError, RuntimeError) as error:  # also its checks, and Xet
        said = " ".join(str(error).replace(token, "<token>").split())[:MOST_SAID]
        raise HubError(
            f"{repository.id} was not published ({type(error).__name__}: {said}); "
            f"{_advice(repository, _status(error))}. The hub has all of the files or none: what "
            "was there before is as it was, and a repository made just now is empty and private"
        ) from None


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _advice(repository: Repository, status: int | None) -> str:
    owner = repository.id.partition("/")[0]
    if status == 401:
        return f"the hub does not know the token in {TOKEN}; make a new one with write access"
    if status in (402, 403):
        return f"the token in {TOKEN} may not write for {owner!r}; use one that may, or your name"
    if status in (404, 409):
        return "the name is taken by a repository that the token may not see; choose another"
    if status is None:
        return f"check the network and {ENDPOINT}, then run the same command again"
    return "run the same command again later"
