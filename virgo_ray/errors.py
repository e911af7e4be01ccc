"""Exceptions a user can meet. Each message holds the value, what was expected, and what to do next.

All of them survive pickling (Ray sends exceptions between processes): they take one string.
"""


class VirgoError(Exception):
    """Base of everything this package raises on purpose; `run` prints it without a stack trace."""


class ConfigError(VirgoError):
    """The YAML file or an override is wrong."""


class DataError(VirgoError):
    """A problem, image or seed thought cannot be used."""


class LedgerError(VirgoError):
    """The run directory's committed state is damaged, in use, or belongs to another config."""


class DiskError(VirgoError):
    """The file system refused to write: it is full, read-only, or gone."""


class TraceStoreError(VirgoError):
    """What was sampled cannot be stored, or the replay buffer would be made inconsistent (a key
    twice, an unknown column)."""


class WeightsError(VirgoError):
    """A weights directory is incomplete, or does not match its manifest."""


class DroppedWeightsError(WeightsError):
    """A version whose tensors are missing on purpose: dropped by `weights.keep_last` and never made
    again, or published without them by `weights.publish_every` and trained again where needed."""


class PushError(WeightsError):
    """A push did not finish in time or the engines' log-probabilities differ from the trainer's."""


class RolloutError(VirgoError):
    """The rollout workers cannot serve."""


class VerifierError(VirgoError):
    """Too many rollouts could not be judged."""


class HubError(VirgoError):
    """The Hugging Face hub refused what was to be published, or cannot be reached."""


class NoProgressError(VirgoError):
    """Several explorations in a row brought nothing new to learn from."""


class TrainingError(VirgoError):
    """A fit failed: non-finite loss, a dead rank, a pattern that matches no parameter."""


class GateError(VirgoError):
    """A round failed its gates on held-out data and the run ends with older weights."""


class PlacementError(VirgoError):
    """The cluster cannot hold what the config asks for."""


class ClusterError(VirgoError):
    """The Ray cluster was lost while the run went on."""
