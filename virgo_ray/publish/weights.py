"""Which checkpoint of a run is published, and which of its files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from virgo_ray.config import read_stored
from virgo_ray.errors import ConfigError
from virgo_ray.hub.content import File, publishable
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.files import DESCRIPTION, WEIGHTS
from virgo_ray.records import Round
from virgo_ray.weights.contents import ADAPTERS_NAME
from virgo_ray.weights.manifest import DONE_NAME, MANIFEST_NAME, check_weights
from virgo_ray.weights.probe import PICTURES_NAME, PROBE_NAME
from virgo_ray.weights.publish import version_dir

FILES = (WEIGHTS, *DESCRIPTION, "LICENSE*", "NOTICE*")
# For the run itself: they hold or name its pictures, belong on weights that are not published, or
# say nothing to others.
OWN_FILES = (
    DONE_NAME, MANIFEST_NAME, PROBE_NAME, f"{PICTURES_NAME}/*", f"{ADAPTERS_NAME}/*", "fit.json",
)  # fmt: skip


def find_checkpoint(run: Path, number: int | None) -> tuple[Round, Path]:
    """The round to publish and where its weights lie; without a number the newest accepted one.

    Raises:
        ConfigError: there is no such round, or it trained nothing.
        LedgerError: `run` is no run, or one that is going on.
        WeightsError: the weights are not whole.
    """
    with closing(Ledger.reopen(run)) as ledger:
        rounds = [r for r in ledger.rounds() if r.number is not None and r.weights.version]
    accepted = [r for r in rounds if not r.is_rejected]
    found = [r for r in rounds if r.number == number] if number is not None else accepted[-1:]
    if not found:
        asked = "an accepted round" if number is None else f"round {number}"
        raise ConfigError(
            f"{run} has no weights of {asked}; expected one of rounds {[r.number for r in rounds]}"
        )
    here = version_dir(run / "weights", found[0].weights.version)
    directory = here if here.is_dir() else Path(found[0].weights.path)
    check_weights(directory)
    return found[0], directory


def checkpoint_files(run: Path, directory: Path) -> tuple[list[File], list[str]]:
    """What is published of a checkpoint, and the names of what is not.

    Raises:
        DataError: a file tells of this machine.
    """
    has_code = read_stored(run).model.trust_remote_code
    return publishable(directory, (*FILES, *(("*.py",) if has_code else ())), OWN_FILES)
