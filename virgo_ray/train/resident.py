"""A model and its optimizer that stay in memory from one fit to the next (`train.resident`).

Guarantees: a fit that goes on with them begins as if it had loaded the published directory, to the
last bit: parameters and masters as they were published, adapters in float32 on the weights below
them, AdamW's state zero. Where the optimizer is carried on (`train/carrying.py`), it begins as if
it had loaded that, too. It goes on with them only where it starts from exactly those weights;
everything else is freed first. All ranks call the same methods together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.records import Weights
from virgo_ray.train.adapters import Origin
from virgo_ray.train.fit_record import read_recipe
from virgo_ray.train.fitting import Loaded
from virgo_ray.train.model import adapters_of
from virgo_ray.train.process import free_memory
from virgo_ray.train.zero import broadcast_from_first, is_first_rank


@dataclass(frozen=True)
class Held:
    """What a fit leaves in memory: the model of `weights`, adapters not folded.

    `recipe` is that of the fit, by which its published directory is known; `origin` says what its
    adapters are on.
    """

    loaded: Loaded
    weights: Weights
    recipe: str
    origin: Origin | None


class Resident:
    """Of one rank: what the fit before left, or nothing."""

    def __init__(self) -> None:
        self._held: Held | None = None
        self._is_away = False  # offloaded
        self._has_said = False

    def keep(self, held: Held) -> None:
        """Hold it until a fit takes it, or until it is in the way."""
        self._held = held

    def holds(self, loaded: Loaded) -> bool:
        return self._held is not None and self._held.loaded is loaded

    def take(self, start: Weights, origin: Origin | None, is_carried: bool) -> Loaded | None:
        """The model of `start` with the adapters of `origin`, begun anew unless its optimizer
        `is_carried` on; its freeing is then the caller's. None where it is not what is held, which
        is freed."""
        held = self._held
        if held is None:
            return None
        if not broadcast_from_first(is_first_rank() and _is_of(held, start, origin)):
            del held  # what follows may need its memory
            self.close()
            return None
        self._held = None
        if self._is_away:
            held.loaded.engine.reload()
            self._is_away = False
        if not is_carried:
            _begin_anew(held.loaded)
        held.loaded.module.train()
        return held.loaded

    def release(self, say: Callable[[str], None]) -> None:
        """Give the device to others: to host memory what can be moved there, else for good."""
        if self._held is None or self._is_away:
            return
        if self._held.loaded.engine.can_offload:
            self._held.loaded.engine.offload()
            self._is_away = True
            return
        self.close()
        if not self._has_said:
            say(
                "train.resident: DeepSpeed moves a model and its optimizer to host memory with "
                "train.zero_stage=1 or 2 only; they are freed while engines use the device, and "
                "every fit loads its weights"
            )
            self._has_said = True

    def close(self) -> None:
        """Free what is held. Safe to call twice."""
        if self._held is None:
            return
        held, self._held, self._is_away = self._held, None, False
        held.loaded.engine.close()
        del held
        free_memory()


def _is_of(held: Held, start: Weights, origin: Origin | None) -> bool:
    """Whether `start` lies there as that fit published it."""
    is_same = (held.weights, held.origin) == (start, origin)
    return is_same and read_recipe(Path(start.path)) == held.recipe


def _begin_anew(loaded: Loaded) -> None:
    adapters = adapters_of(loaded.module.model)
    masters = loaded.engine.masters(adapters)
    loaded.engine.begin_anew()
    loaded.engine.set_masters(adapters, masters)
