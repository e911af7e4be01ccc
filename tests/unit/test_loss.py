"""The loss and its schedule, without a model."""

from __future__ import annotations

import pytest
import torch

from virgo_ray.train import loss as loss_module
from virgo_ray.train.loss import ChunkedLogprobs, learning_rate, weighted_nll


def reference(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def test_chunked_logprobs_equal_log_softmax_in_value_and_gradient(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 3 * 11)  # chunks of 3 rows, the last of 1
    torch.manual_seed(0)
    logits = (torch.randn(10, 11) * 5).requires_grad_()
    targets = torch.randint(11, (10,))
    upstream = torch.randn(10)
    (expected,) = torch.autograd.grad(reference(logits, targets), logits, upstream)
    logprobs = ChunkedLogprobs.apply(logits, targets)
    (found,) = torch.autograd.grad(logprobs, logits, upstream)
    torch.testing.assert_close(logprobs, reference(logits, targets))
    torch.testing.assert_close(found, expected)


def test_logprobs_of_bfloat16_logits_are_float32_and_gradients_bfloat16():
    logits = torch.randn(4, 9, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([0, 3, 8, 1])
    logprobs = ChunkedLogprobs.apply(logits, targets)
    (grad,) = torch.autograd.grad(logprobs.sum(), logits)
    assert logprobs.dtype == torch.float32 and grad.dtype == torch.bfloat16
    torch.testing.assert_close(logprobs, reference(logits, targets))


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
