"""The ways in which Ray says that an actor or an object is gone: one kind of fault.

A loss is nobody's mistake: a process was killed, a node went away, Ray's memory monitor struck. The
same call on a new actor may well succeed. Told from it is what our own code raised in an actor,
which comes as a RayTaskError. Does not know who asks again, nor how often.
"""

from __future__ import annotations

from ray import exceptions
from ray.exceptions import RayError, RayTaskError

# With their subclasses. A time-out of `ray.get` is not among them: what is late may still come.
GONE: tuple[type[RayError], ...] = (
    exceptions.RayActorError,  # died, or cannot be reached
    exceptions.OutOfMemoryError,  # ended by Ray's memory monitor
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.ObjectLostError,  # its owner died, fetching it took too long, it was freed ...
    exceptions.PlasmaObjectNotAvailable,
    exceptions.ActorUnschedulableError,  # its node is gone
    exceptions.TaskUnschedulableError,
    exceptions.ActorPlacementGroupRemoved,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.RuntimeEnvSetupError,  # the agent that sets processes up died: none was made
    exceptions.RaySystemError,  # what Ray itself meets while it loses a raylet
)
# Its node is gone and took the actor along.
NODE_GONE = (
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.ActorUnschedulableError,
)
NODE_DIED = ("its node has died", "its node is dead")  # in Ray's message for such an actor
# A result is gone and its actor may live: ask again, and leave the actor alone.
ONLY_OBJECT_GONE = (exceptions.ObjectLostError, exceptions.PlasmaObjectNotAvailable)
MAX_CHARS = 600  # of an error in a log or a message; Ray writes up to 240 lines


def is_loss(error: BaseException) -> bool:
    """Whether Ray says that an actor or an object is gone.

    False where our own code raised, in a call or as the actor was made, also for a time-out. An
    argument that was lost on its way to an actor comes as a task's error around the loss, and is
    one.
    """
    return isinstance(cause_of(error), GONE) and not _failed_as_made(error)


def went_with_node(error: BaseException) -> bool:
    """Whether a loss is one of a whole node, such as one that was preempted.

    >>> went_with_node(exceptions.WorkerCrashedError())
    False
    """
    return isinstance(cause_of(error), NODE_GONE) or any(words in str(error) for words in NODE_DIED)


def cause_of(error: BaseException) -> BaseException:
    """What code raised in an actor, without Ray's wrapping; any other error is its own cause."""
    return error.cause if isinstance(error, RayTaskError) else error


def in_short(error: BaseException) -> str:
    """Type and message for a log or an error, cut at MAX_CHARS.

    >>> in_short(RuntimeError("Engine core initialization failed"))
    'RuntimeError: Engine core initialization failed'
    """
    cause = cause_of(error)
    message = str(cause)
    if _failed_as_made(error):  # a traceback, whose last line is our own error
        message = message.strip().splitlines()[-1]
    text = f"{type(cause).__name__}: {message}"
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} ..."


def _failed_as_made(error: BaseException) -> bool:
    return isinstance(error, exceptions.RayActorError) and error.actor_init_failed
