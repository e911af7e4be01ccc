"""The loss and its schedule, without a model."""

from __future__ import annotations

import pytest
import torch

from virgo_ray.train.loss import learning_rate, weighted_nll


def test_micro_batches_add_up_to_the_mean_over_all_target_tokens():
    logprobs = torch.tensor([-1.0, -3.0, -2.0, -6.0])
    ones = torch.ones(4)
    parts = [weighted_nll(logprobs[s], ones[s], 4) for s in (slice(0, 1), slice(1, 4))]
    assert sum(parts).item() == pytest.approx(3.0)


def test_a_weight_scales_its_example_and_not_the_divisor():
    assert weighted_nll(torch.tensor([-1.0, -3.0]), torch.tensor([0.0, 2.0]), 4).item() == 1.5


def test_learning_rate_warms_up_to_the_peak_and_falls_to_nearly_zero():
    rates = [learning_rate(step, 100, peak=2.0, warmup_ratio=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == rates[9] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.0 < rates[-1] < 0.01


@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0.0), (1, 0.1), (2, 0.99), (3, 0.5)])
def test_every_step_of_a_short_fit_has_a_positive_learning_rate(num_steps, warmup):
    rates = [learning_rate(step, num_steps, 1.0, warmup) for step in range(num_steps)]
    assert all(0.0 < rate <= 1.0 for rate in rates)


def test_a_line_falls_evenly_to_just_above_zero():
    rates = [learning_rate(step, 5, 1.0, 0.2, "linear") for step in range(5)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
