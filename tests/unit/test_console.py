"""What a run says at its end."""

from virgo_ray.monitor.console import summary

BASE = {
    "round": "base", "pass_at_1": 0.1, "long_format_share": 0.0, "mean_thought_tokens": 6.0,
    "rejected": False,
}  # fmt: skip
ROUND_0 = {
    "round": 0, "pass_at_1": 0.75, "long_format_share": 0.98, "mean_thought_tokens": 109.4,
    "rejected": False,
}  # fmt: skip


def test_the_summary_compares_the_last_round_that_was_kept_with_the_base():
    rejected = {**ROUND_0, "round": 1, "pass_at_1": 0.0, "rejected": True}
    assert summary([BASE, ROUND_0, rejected]) == (
        "Held-out pass@1 went from 10.0% (base) to 75.0% (round 0), +65.0 points; 98% of its "
        "answers are long thoughts of 109 tokens in the mean."
    )


def test_the_summary_says_so_when_no_round_was_kept():
    rejected = {**ROUND_0, "rejected": True}
    assert summary([BASE, rejected]) == "No round was kept; held-out pass@1 of the base is 10.0%."
