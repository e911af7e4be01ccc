"""The note in a directory of weights that says that its tensors are missing on purpose.

They were dropped, or the version was published without them. The note is written before the first
file goes, so a directory with a note is never whole, and one without was never touched. What reads
weights asks here first, and says the note instead of calling the directory damaged. Knows nothing
of who drops what (`weights/retention.py`, `weights/remade.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from virgo_ray.files import write_atomically

NOTE_NAME = "DROPPED"  # beside DONE


@dataclass(frozen=True)
class DroppedNote:
    """`why` is the rule, such as "weights.keep_last=2 after round 5"; `when` is in UTC.

    `is_remade`: a run that needs the tensors trains them again (`weights.publish_every`).
    """

    why: str
    when: str
    num_bytes: int
    files: tuple[str, ...]  # relative to the directory
    is_remade: bool = False
    is_readable: bool = True  # else nothing above is known

    def save(self, directory: Path) -> None:
        """Write the note, durably."""
        values = {k: v for k, v in asdict(self).items() if k != "is_readable"}
        write_atomically(directory / NOTE_NAME, json.dumps(values, indent=1))


def is_dropped(directory: Path) -> bool:
    return (directory / NOTE_NAME).exists()


def read_note(directory: Path) -> DroppedNote | None:
    """The note of a directory; None where nothing was dropped.

    A note that somebody damaged is still one, but says nothing: `is_readable` is False.
    """
    if not is_dropped(directory):
        return None
    try:
        values = json.loads((directory / NOTE_NAME).read_text(encoding="utf-8"))
        files = tuple(str(name) for name in values["files"])
        said = str(values["why"]), str(values["when"]), int(values["num_bytes"])
        return DroppedNote(*said, files, bool(values.get("is_remade", False)))
    except (OSError, ValueError, KeyError, TypeError):
        return DroppedNote("", "", 0, (), is_readable=False)


def is_remade(directory: Path) -> bool:
    """Whether the tensors are missing, and the run trains them again where it needs them."""
    note = read_note(directory)
    return note is not None and note.is_remade


def say_dropped(directory: Path) -> str:
    """A sentence for whoever wants the weights of `directory`; empty where nothing was dropped."""
    note = read_note(directory)
    if note is None:
        return ""
    if note.is_remade:
        return (
            f"{directory} was published without its tensors ({note.num_bytes / 1e9:.1f} GB) by "
            f"{note.why} on {note.when}; the run that trained it trains them again where it goes "
            "on with them. Its manifest, probe, fit record and model card are there"
        )
    if note.is_readable:
        by, size = f"by {note.why} on {note.when}", f" ({note.num_bytes / 1e9:.1f} GB)"
    else:
        by, size = f"(when and by which rule cannot be read from {NOTE_NAME} in it)", ""
    return (
        f"{directory} was dropped {by}: its tensors{size} are gone, and nothing trains it again. "
        "Its manifest, probe, fit record and model card are kept"
    )
