"""What a run says at its end."""

from round_parts import evaluated, evaluation

from virgo_ray.monitor.console import summary
from virgo_ray.records import Failure

FAILURE = Failure("max_pass_at_1_fall", "pass_at_1", 0.0, 0.7, 0.05, 0.0, True)
BEFORE = evaluation(pass_at_1=0.1, long_format_share=0.0, mean_thought_tokens=6.0)
AFTER = evaluation(pass_at_1=0.75, long_format_share=0.98, mean_thought_tokens=109.4)
BASE = evaluated("base", BEFORE)


def test_the_summary_compares_the_last_round_that_was_kept_with_the_base():
    rejected = evaluated(1, evaluation(pass_at_1=0.0), failures=(FAILURE,))
    assert summary([BASE, evaluated(0, AFTER), rejected]) == (
        "Held-out pass@1 went from 10.0% (base) to 75.0% (round 0), +65.0 points; 98% of its "
        "answers are long thoughts of 109 tokens on average."
    )


def test_the_summary_says_so_when_no_round_was_kept():
    rejected = evaluated(0, AFTER, failures=(FAILURE,))
    assert summary([BASE, rejected]) == "No round was kept; held-out pass@1 of the base is 10.0%."
