"""An exploration as it was begun: whom it asks what, committed before the first answer is stored.

An interrupted round is finished as it was begun: the same problems, asked with the same weights and
in the same way. Neither a regrade, nor a changed key, nor a round that is judged again in between
makes two explorations of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virgo_ray.config import ExtraConfig, ObjectiveConfig, SamplingConfig, budget_as_share
from virgo_ray.records import Weights

IMITATION = ObjectiveConfig()


@dataclass(frozen=True)
class Exploration:
    """What one round asks of `weights`, the model of the round before; `asked` are problem ids, and
    so is `reserve`, which is asked in its order where groups have no signal under `objective`."""

    asked: tuple[str, ...]
    weights: Weights
    num_samples: int
    sampling: SamplingConfig
    extra: ExtraConfig
    has_blank_probe: bool
    reserve: tuple[str, ...] = ()
    objective: ObjectiveConfig = IMITATION

    def as_entry(self, round: int) -> dict[str, Any]:
        """As the ledger keeps it; of the weights their version."""
        return {
            "round": round,
            "asked": list(self.asked),
            "weights_version": self.weights.version,
            "num_samples": self.num_samples,
            "sampling": self.sampling.model_dump(mode="json"),
            "extra": self.extra.model_dump(mode="json"),
            "has_blank_probe": self.has_blank_probe,
            **({"reserve": list(self.reserve)} if self.reserve else {}),
            **(
                {}
                if self.objective == IMITATION
                else {"objective": self.objective.model_dump(mode="json")}
            ),
        }

    @classmethod
    def of(cls, entry: Mapping[str, Any], weights: Mapping[int, Weights]) -> Exploration:
        """The inverse of `as_entry`; `weights` by their versions."""
        return cls(
            asked=tuple(entry["asked"]),
            weights=weights[entry["weights_version"]],
            num_samples=entry["num_samples"],
            sampling=SamplingConfig(**entry["sampling"]),
            extra=_read_extra(entry["extra"], len(entry["asked"])),
            has_blank_probe=entry["has_blank_probe"],
            reserve=tuple(entry.get("reserve", ())),
            objective=ObjectiveConfig(**entry.get("objective", {})),
        )


def _read_extra(entry: Mapping[str, Any], num_asked: int) -> ExtraConfig:
    """Entries of earlier versions have a `budget`, a number of rollouts."""
    if "budget" not in entry:
        return ExtraConfig(**entry)
    rest = {key: value for key, value in entry.items() if key != "budget"}
    return ExtraConfig(**rest, budget_share=budget_as_share(entry["budget"], num_asked))
