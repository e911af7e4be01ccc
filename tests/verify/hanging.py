"""A custom verifier for tests that misbehaves on demand."""

from __future__ import annotations

import os
import time

# Answers, with their gold answers, that keep sympy busy for minutes.
HANGING = (
    ("a+b", r"\frac{(a+b+d)^{60}-(a-b-d)^{60}}{(a+c+d)^{59}}"),
    ("a+b+c+d", r"\frac{(a+b+c+d+e)^{60}-(a-b)^{60}}{(a+c-d-e)^{59}}"),
)


def grade(question: str, gold: str, answer: str, response: str) -> bool:
    if answer == "hang":
        while True:
            pass
    if answer == "sleep":
        time.sleep(3600)
    if answer == "die":
        os._exit(3)
    if answer == "eat":
        return len(bytearray(1 << 40)) > 0
    if answer == "raise":
        raise ValueError("cannot grade this")
    if answer == "slow":
        time.sleep(0.5)
    if answer == "work":
        end = time.process_time() + 0.07
        while time.process_time() < end:
            pass
    return answer in (gold, "slow", "work")
