"""Members of groups, for tests of reinforcement."""

from virgo_ray.records import Member, Status

LETTERS = {
    "c": Status.CORRECT, "w": Status.WRONG, "n": Status.NO_ANSWER, "t": Status.TRUNCATED,
    "r": Status.REPETITIVE, "o": Status.TIMEOUT, "e": Status.ERROR,
}  # fmt: skip


def make_members(statuses, problem="p", lengths=None, **fields):
    """A member for each letter: `make_members("ccw")` are two correct ones and a wrong one."""
    lengths = lengths or [100] * len(statuses)
    usual = {"weights_version": 1, "temperature": 1.0, "has_logprobs": True}
    return tuple(
        Member(1, problem, i, LETTERS[s], "stop", n, **{**usual, **fields})
        for i, (s, n) in enumerate(zip(statuses, lengths, strict=True))
    )


class Groups:
    """A store that has the groups of one round."""

    def __init__(self, **groups):
        self._groups = groups

    def groups(self, round):
        assert round == 1
        return self._groups
