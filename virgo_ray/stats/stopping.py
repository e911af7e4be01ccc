"""Estimates for samples that were drawn until enough of them were correct.

Asking a problem again because few of its answers were correct, and stopping once enough are, makes
plain shares too high (`num_correct / num_judged`) and gives a blind guesser more than one chance.
Both are computed here for the rule that was followed, exactly, by going through its batches sample
by sample. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

ROUNDING = 1e-9
EXACT_TRIES = 100  # up to which the number of orders is computed as the whole number that it is
CACHE_SIZE = 65536  # distinct (counts, chance, rule): a run has some hundred


@dataclass(frozen=True)
class StoppingRule:
    """How often a problem is asked: `num_samples` times, then in batches up to `max_extra` more.

    Another batch follows while fewer than `until_correct` are correct. The default is a fixed
    number of samples, whichever it was. `may_end_anywhere` where a budget is shared with other
    problems: the batches may end after any sample then.
    """

    num_samples: int = 1
    max_extra: int = 0
    batch: int = 1
    until_correct: int = 1
    may_end_anywhere: bool = False

    @property
    def most(self) -> int:
        return self.num_samples + self.max_extra

    def is_end(self, asked: int, num_correct: int) -> bool:
        """Whether no batch follows, but for a budget."""
        num_extra = asked - self.num_samples
        is_batch_done = num_extra % self.batch == 0
        return asked == self.most or (is_batch_done and num_correct >= self.until_correct)

    def fitted(self, num_judged: int) -> StoppingRule:
        """The rule for a problem of which so many samples were judged.

        With fewer than `num_samples` some failed, and the first batch counts as smaller; with more
        than the rule can ask, another rule was followed, and the number counts as fixed.
        """
        if self.max_extra == 0 or num_judged > self.most:
            return replace(self, num_samples=num_judged, max_extra=0)
        return replace(self, num_samples=min(self.num_samples, num_judged))

    def count_at_end(self, num_judged: int) -> int:
        """After how many samples such a problem ended: failures to judge count as wrong ones."""
        if self.may_end_anywhere:
            return num_judged
        whole = math.ceil((num_judged - self.num_samples) / self.batch) * self.batch
        return min(self.num_samples + whole, self.most)

    def most_correct(self, asked: int) -> int:
        """The most that can be correct of so many: with more, the last batch had not followed."""
        if asked <= self.num_samples:
            return asked
        last = (asked - self.num_samples - 1) // self.batch * self.batch + self.num_samples
        return min(last, self.until_correct - 1) + asked - last

    def num_when_all_are_correct(self) -> int:
        """How often a problem is asked that is always solved."""
        asked = self.num_samples
        while not self.is_end(asked, asked):
            asked += 1
        return asked


FIXED = StoppingRule()


@lru_cache(CACHE_SIZE)
def estimate_pass_rate(num_correct: int, num_judged: int, rule: StoppingRule) -> float:
    """The unbiased estimate of the probability that a sample is correct.

    It is the share, among all orders of right and wrong that lead to these counts under the rule,
    of those that begin with a correct sample (Girshick, Mosteller and Savage 1946). For a fixed
    number of samples that is num_correct / num_judged, for single samples until the k-th correct
    one (k - 1) / (num_judged - 1). It is exact where no sample failed and no budget ran out.

    >>> rule = StoppingRule(num_samples=2, max_extra=4, batch=2, until_correct=2)
    >>> [estimate_pass_rate(*counts, rule) for counts in ((2, 2), (2, 4), (3, 4), (1, 6))]
    [1.0, 0.4, 0.5, 0.16666666666666666]
    """
    rule = rule.fitted(num_judged)
    first = rule.num_samples
    orders = {
        k: (math.comb(first, k), math.comb(first - 1, k - 1) if k else 0) for k in range(first + 1)
    }
    for asked in range(first, num_judged):
        following: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for k, (num, num_first) in orders.items():
            if not rule.is_end(asked, k):
                for now in (k, k + 1):
                    before = following[now]
                    following[now] = (before[0] + num, before[1] + num_first)
        orders = following
    num, num_first = orders.get(num_correct, (0, 0))
    return num_first / num if num else num_correct / num_judged


@lru_cache(CACHE_SIZE)
def luck(num_correct: int, num_judged: int, chance: float, rule: StoppingRule) -> float:
    """The probability that a blind guesser comes to counts at least as unlikely as these.

    `chance` is that of one guess. Counts are as unlikely as it is to get so many right of so many
    tries (the binomial tail). A guesser has a luck of at most x with a probability of at most x,
    whatever the rule. Where a budget may end the batches anywhere, the guesser gets the benefit:
    having come by such counts at any moment is enough. Counts that the rule cannot make, because
    some samples failed or the rule was another one, have the luck of a fixed number of samples.

    >>> luck(2, 2, 0.5, StoppingRule(num_samples=2))
    0.25
    >>> round(luck(4, 5, 0.25, StoppingRule(5, max_extra=8, batch=4, until_correct=4)), 3)
    0.021
    """
    rule = rule.fitted(num_judged)
    if num_correct > rule.most_correct(num_judged):
        return binomial_tail(num_correct, num_judged, chance)
    asked = rule.count_at_end(num_judged)
    bound = binomial_tail(num_correct, asked, chance) * (1.0 + ROUNDING)
    going: Mapping[int, float] = {
        k: _binomial(k, rule.num_samples, chance) for k in range(rule.num_samples + 1)
    }
    lucky = 0.0
    for asked in range(rule.num_samples, rule.most + 1):
        most = max(*going, rule.until_correct + rule.batch, 0)
        if not going or binomial_tail(most, asked, chance) > bound:
            break  # the most that can ever be right is too likely by now, and gets likelier
        ended = [k for k in going if rule.is_end(asked, k)]
        possible = sorted(going if rule.may_end_anywhere else ended)
        hits = possible[_first_hit(possible, asked, chance, bound) :]
        lucky += math.fsum(going[k] for k in hits)
        going = _ask_once_more({k: going[k] for k in going.keys() - {*ended, *hits}}, chance)
    return min(lucky, 1.0)


def _first_hit(possible: Sequence[int], asked: int, chance: float, bound: float) -> int:
    """Where in ascending counts those begin that are as unlikely as `bound`."""
    return bisect_left(possible, True, key=lambda k: binomial_tail(k, asked, chance) <= bound)


def _ask_once_more(going: Mapping[int, float], chance: float) -> dict[int, float]:
    following: dict[int, float] = defaultdict(float)
    for k in sorted(going):
        following[k] += going[k] * (1.0 - chance)
        following[k + 1] += going[k] * chance
    return following


@lru_cache(CACHE_SIZE)
def binomial_tail(num: int, tries: int, chance: float) -> float:
    """The probability of at least `num` hits in `tries`, each with this chance.

    >>> binomial_tail(1, 2, 0.5), binomial_tail(2, 2, 0.5), binomial_tail(3, 2, 0.5)
    (0.75, 0.25, 0.0)
    """
    if tries <= EXACT_TRIES:
        return math.fsum(_binomial(k, tries, chance) for k in range(num, tries + 1))
    if num > tries * chance:
        return math.fsum(_falling(range(num, tries + 1), tries, chance))
    return max(0.0, 1.0 - math.fsum(_falling(range(num - 1, -1, -1), tries, chance)))


def _falling(counts: Iterable[int], tries: int, chance: float) -> Iterator[float]:
    """The probabilities of counts away from the mean, until they no longer matter to their sum."""
    total = 0.0
    for num in counts:
        yield (value := _binomial(num, tries, chance))
        total += value
        if value < total * 1e-18:
            return


def _binomial(num: int, tries: int, chance: float) -> float:
    if tries <= EXACT_TRIES:
        return math.comb(tries, num) * chance**num * (1.0 - chance) ** (tries - num)
    if chance in (0.0, 1.0):
        return float(num == tries * chance)
    orders = math.lgamma(tries + 1) - math.lgamma(num + 1) - math.lgamma(tries - num + 1)
    return math.exp(orders + num * math.log(chance) + (tries - num) * math.log1p(-chance))
