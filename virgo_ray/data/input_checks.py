"""Whether the model can take a record, and a probe the problem: checks that refuse by row."""

from __future__ import annotations

from collections.abc import Callable

from virgo_ray.data.room import least_room
from virgo_ray.data.rows import RowError
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import DataError
from virgo_ray.records import Problem, SeedThought


def make_probe_check(name: str, model_check: ModelInputCheck) -> Callable[[Problem], None]:
    """Return a check that also demands pictures for `evaluate.perception`, none for `text`."""

    def check(problem: Problem) -> None:
        if bool(problem.images) != (name == "perception"):
            kind, wanted = ("has images", "none") if problem.images else ("no image", "one or more")
            raise RowError(kind, f"problems of evaluate.{name} have {wanted}")
        model_check.check_problem(problem)

    return check


class ModelInputCheck:
    """Checks that the model can take a record, and keeps its number of tokens by id (`lengths`)."""

    def __init__(
        self, tokens: TokenCounts, max_length: int, limit_key: str = "", max_tokens: int = 1
    ) -> None:
        """`limit_key` names the config key of `max_tokens`, the most that a response may have."""
        self.lengths: dict[str, int] = {}
        self._limit = f" of {limit_key}={max_tokens}" if limit_key else ""
        self._least_room = least_room(max_tokens)
        self._tokens = tokens
        self._max_length = max_length

    def check_problem(self, problem: Problem) -> None:
        """
        Raises:
            RowError: hardly any token is left for a response, or the model cannot take text or
                pictures.
        """
        length = self._count(lambda: self._tokens.of_prompt(problem))
        room = self._max_length - length
        if room < self._least_room:
            raise RowError(
                "no room for a response" if room > 0 else "too long",
                f"its prompt has {length} tokens, so model.max_length={self._max_length} leaves "
                f"{max(room, 0)}, expected at least {self._least_room}{self._limit}; raise "
                "model.max_length, or shorten the question (or its pictures: model.max_pixels)",
            )
        self.lengths[problem.id] = length

    def check_thought(self, thought: SeedThought) -> None:
        """
        Raises:
            RowError: prompt and thought are longer than `model.max_length`, or the thought holds
                image placeholders.
        """
        length = self._count(lambda: self._tokens.of_thought(thought))
        if length > self._max_length:
            raise RowError(
                "too long",
                f"it has {length} tokens, expected at most {self._max_length}; raise "
                "model.max_length, or limit thoughts by max_tokens",
            )
        self.lengths[thought.problem.id] = length

    def _count(self, count: Callable[[], int]) -> int:
        try:
            return count()
        except DataError as error:
            raise RowError("not for this model", str(error)) from error
