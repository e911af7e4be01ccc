"""Things of which some may be had only after others have come out at the end."""

import time

MOST_IDLE = 20_000


class Following:
    """Gives `first`; the `second` follow once as many were noted in `came` as there are in `first`.

    Says None meanwhile. Fails where nobody hands on what it holds.
    """

    def __init__(self, first, second):
        self.first, self.second, self.came = list(first), list(second), []
        self.num_first, self.num_idle = len(self.first), 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.first:
            return self.first.pop(0)
        if len(self.came) < self.num_first:
            self.num_idle += 1
            assert self.num_idle < MOST_IDLE, "what came before is held back"
            time.sleep(0.001)
            return None
        if not self.second:
            raise StopIteration
        return self.second.pop(0)

    def take(self, results):
        """All results, each noted as it comes."""
        for result in results:
            if result is not None:
                self.came.append(result)
        return self.came
