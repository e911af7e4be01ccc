"""What one check has found: that it is well, what to do, or that it was not checked.

Guarantees that what was not looked at is never called well. Knows no check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Thread
from typing import Any

from virgo_ray.errors import VirgoError

ALL_WELL, SOMETHING_TO_DO, NOT_ALL_CHECKED = 0, 1, 3  # exit codes; 2 is a config that is wrong


class Status(StrEnum):
    OK = "ok"
    TO_DO = "to do"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the page. `advice` is what to do; a check that is not `is_needed` may be left
    unchecked without changing the exit code."""

    status: Status
    text: str
    advice: str = ""
    is_needed: bool = True
    name: str = ""


def well(text: str) -> Finding:
    return Finding(Status.OK, text)


def to_do(text: str, advice: str = "") -> Finding:
    """The messages of our own errors say what to do themselves."""
    return Finding(Status.TO_DO, text, advice)


def not_checked(why: str, advice: str = "") -> Finding:
    """A check that the run needs and that could not be made."""
    return Finding(Status.NOT_CHECKED, why, advice)


def not_needed(why: str) -> Finding:
    """A check of something that the run does not use."""
    return Finding(Status.NOT_CHECKED, why, is_needed=False)


def exit_code(findings: Iterable[Finding]) -> int:
    """By the worst: something to do, then what is needed and was not checked."""
    found = list(findings)
    if any(f.status is Status.TO_DO for f in found):
        return SOMETHING_TO_DO
    is_open = any(f.status is Status.NOT_CHECKED and f.is_needed for f in found)
    return NOT_ALL_CHECKED if is_open else ALL_WELL


@dataclass(frozen=True)
class Check:
    """A named look at something, and how long it may take, in seconds."""

    name: str
    look: Callable[[Any], Finding]
    deadline_s: float = 20.0


def examine(check: Check, subject: Any) -> Finding:
    """What a check finds of a subject; one that hangs or fails finds just that.

    The check runs in a thread, which is left behind if it hangs.
    """
    found: list[Finding] = []
    thread = Thread(target=lambda: found.append(guard(check.look, subject)), daemon=True)
    thread.start()
    thread.join(check.deadline_s)
    if not found:
        late = not_checked(f"no answer within {check.deadline_s:g} s", "look why it hangs")
        return replace(late, name=check.name)
    return replace(found[0], name=check.name)


def guard(
    look: Callable[[Any], Finding],
    subject: Any,
    failed: str = "the check itself failed",
    advice: str = "look at what the message names; if it says nothing, report a bug of virgo-ray",
) -> Finding:
    """What `look` finds; an exception that nobody expected is a finding, too."""
    try:
        return look(subject)
    except VirgoError as error:
        return to_do(str(error))
    except Exception as error:
        return to_do(f"{failed}: {type(error).__name__}: {error}", advice)
