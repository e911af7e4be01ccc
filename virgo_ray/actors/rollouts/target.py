"""What every rollout worker shall serve, and how it is proven that it does.

A worker loads the weights, says which bytes it read, and scores the probe. Knows neither actors nor
slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from virgo_ray.actors.faults import Fault
from virgo_ray.errors import PushError, WeightsError
from virgo_ray.records import Weights
from virgo_ray.weights.offer import STREAM
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.verdict import Deviation, Evidence, Noise, Tolerance, faults, measure

ADVICE = (
    "A wrong checksum of a file: the worker's node sees other files than the driver's; look at its "
    "mount of the run directory. Of a stream: bytes changed on their way. Part of the way: it kept "
    "weights, or a cache, of before. Neither: compare the image processor's settings and the dtype "
    "of trainer and engine; a limit that is too strict for this model is replaced by "
    "push.max_logprob_diff, whatever the noise of version 0"
)


@dataclass(frozen=True)
class Target:
    """Weights with their proof.

    `checksums` are {file name: sha256} of what was published, empty where that is not known (a
    base, or a version that a trainer still holds and writes); they make no other target. `noise` is
    that of version 0, empty until it was measured.
    """

    weights: Weights
    probe: Probe
    checksums: Mapping[str, str] = field(default_factory=dict, compare=False)
    noise: Mapping[str, Noise] = field(default_factory=dict)
    is_from_memory: bool = False  # the probe is the trainer's own, not read from disk

    @property
    def call(self) -> tuple[Weights, tuple[ProbeItem, ...], tuple[ProbeItem, ...]]:
        """What a worker is asked to load and to score."""
        return self.weights, self.probe.items, self.probe.cached_items()

    @property
    def is_on_disk(self) -> bool:
        """Whether a worker can load it from there, and prove what it read."""
        return self.weights.version <= 0 or bool(self.checksums)

    def judge(
        self, evidence: Evidence, tolerance: Tolerance, digest: str = ""
    ) -> Sequence[Deviation]:
        """How far a worker is from the trainer; `tolerance` is `verdict.tolerance_of`.

        `digest` is what the trainer has sent to it, empty where it read files.

        Raises:
            Fault: it does not serve what was published.
        """
        expected = {STREAM: digest} if digest else self.checksums
        said = _wrong_bytes(evidence.read, expected)
        try:
            found = measure(self.probe, evidence, self.noise, tolerance.unknown_noise)
        except WeightsError as error:
            raise Fault(f"cannot be compared with the trainer: {error}", PushError) from error
        if said := [*said, *faults(found, tolerance, self.noise)]:
            raise Fault(
                f"does not serve {self.weights.path} as it was published: {'; '.join(said)}. "
                f"{ADVICE}",
                PushError,
            )
        return found


def _wrong_bytes(read: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    return [
        f"checksum: it read {name} with sha256 {read.get(name, 'nothing')[:12]}, expected "
        f"{sha256[:12]}"
        for name, sha256 in expected.items()
        if read.get(name) != sha256
    ]
