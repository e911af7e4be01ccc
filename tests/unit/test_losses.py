"""Every error that Ray knows is a loss or not; what our own code raised is none."""

import inspect

import pytest
from ray import exceptions
from ray.exceptions import RayError, RayTaskError

from virgo_ray.actors.losses import GONE, MAX_CHARS, cause_of, in_short, is_loss
from virgo_ray.errors import RolloutError

# What says something else than that an actor or an object is gone.
OTHERS = {
    "RayError", "RayTaskError",
    "GetTimeoutError",  # late, perhaps not lost
    "TaskCancelledError", "AsyncioActorExit", "ObjectRefStreamEndOfStreamError",  # somebody's wish
    "CrossLanguageError", "UnserializableException", "UserCodeException",  # code that raised
    "OufOfBandObjectRefSerializationException",
    "ObjectStoreFullError", "OutOfDiskError", "PendingCallsLimitExceeded",  # there, but full
    "AuthenticationError", "RpcError",  # no cluster to talk to
    "ActorAlreadyExistsError", "ActorHandleNotFoundError",  # wrong handles
}  # fmt: skip
ALL = {
    name: kind
    for name, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, RayError)
}


def test_every_error_of_ray_is_sorted():
    """A new version of Ray may bring new ones: say for each whether it is a loss."""
    assert {name for name, kind in ALL.items() if not issubclass(kind, GONE)} == OTHERS


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("unreachable", None),
        exceptions.OutOfMemoryError("killed by the memory monitor"),
        exceptions.NodeDiedError("gone"),
        exceptions.WorkerCrashedError(),
        exceptions.ObjectLostError("ab" * 28, b"", ""),
        exceptions.OwnerDiedError("ab" * 28, b"", ""),
        exceptions.ObjectFetchTimedOutError("ab" * 28, b"", ""),
        exceptions.ObjectReconstructionFailedError("ab" * 28),
        exceptions.ActorUnschedulableError("its node died"),
        exceptions.RaySystemError("raylet is dead"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_loss_is_a_loss_also_as_an_argument_of_a_task(error):
    assert is_loss(error)
    assert is_loss(RayTaskError("fit", "traceback", error).as_instanceof_cause())


@pytest.mark.parametrize("error", [RolloutError("no room"), RuntimeError("x"), TimeoutError("x")])
def test_what_our_own_code_raised_is_no_loss(error):
    wrapped = RayTaskError("start", "traceback", error).as_instanceof_cause()
    assert not is_loss(wrapped) and cause_of(wrapped) is error
    assert not is_loss(exceptions.GetTimeoutError("late"))


def test_long_messages_are_cut():
    text = in_short(exceptions.OutOfMemoryError("memory\n" * 240))
    assert text.startswith("OutOfMemoryError: memory") and len(text) < MAX_CHARS + 10
