"""A custom verifier for tests that misbehaves on demand."""

from __future__ import annotations

import os
import time

# Answers, with their gold answers, that keep sympy busy for minutes.
HANGING = (
    (r"\int_0^1 \sin(x)dx", r"\int_0^1 \frac{\sin(x^3+\cos(x))}{\log(x+\sqrt{x^5+1})} dx"),
    ("(a+b+c+d)^{60}=1", "(a+b+c+d+e)^{60}=2"),
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
