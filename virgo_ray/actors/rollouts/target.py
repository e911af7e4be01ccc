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
from virgo_ray.weights.probe import Probe, ProbeItem
from virgo_ray.weights.verdict import Deviation, Evidence, Noise, Tolerance, faults, measure

ADVICE = (
    "A wrong checksum: the worker's node sees other files than the driver's; look at its mount of "
    "the run directory. Part of the way: it kept weights, or a cache, of before. Neither: compare "
    "the image processor's settings and the dtype of trainer and engine; a limit that is too "
    "strict for this model is replaced by push.max_logprob_diff, whatever the noise of version 0"
)


@dataclass(frozen=True)
class Target:
    """Weights with their proof.

    `checksums` are {file name: sha256} of what was published, empty where that is not known (a
    base); `noise` is that of version 0, empty until it was measured.
    """

    weights: Weights
    probe: Probe
    checksums: Mapping[str, str] = field(default_factory=dict)
    noise: Mapping[str, Noise] = field(default_factory=dict)

    @property
    def call(self) -> tuple[Weights, tuple[ProbeItem, ...], tuple[ProbeItem, ...]]:
        """What a worker is asked to load and to score."""
        return self.weights, self.probe.items, self.probe.cached_items()

    def judge(self, evidence: Evidence, tolerance: Tolerance) -> Sequence[Deviation]:
        """How far a worker is from the trainer; `tolerance` is `verdict.tolerance_of`.

        Raises:
            Fault: it does not serve what was published.
        """
        said = self._wrong_files(evidence.read)
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

    def _wrong_files(self, read: Mapping[str, str]) -> list[str]:
        return [
            f"checksum: it read {name} with sha256 {read.get(name, 'nothing')[:12]}, expected "
            f"{sha256[:12]}"
            for name, sha256 in self.checksums.items()
            if read.get(name) != sha256
        ]
