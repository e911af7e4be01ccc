"""check_train.py with one thing broken that it must find: the output head's gradient, doubled."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "gpu"))

from check_train import main


def break_the_head() -> None:
    from virgo_ray.train.head import ChosenLogprobs

    whole = ChosenLogprobs.backward

    def doubled(ctx, *grads):
        to_hidden, *rest = whole(ctx, *grads)
        return (2 * to_hidden, *rest)

    ChosenLogprobs.backward = staticmethod(doubled)


if __name__ == "__main__":
    if "--worker" in sys.argv:
        break_the_head()
    sys.exit(main())
