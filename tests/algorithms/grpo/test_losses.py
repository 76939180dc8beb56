"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from agl.errors import ConfigError
from agl_grpo.losses import AGGREGATIONS, constant, entropy, kl_loss, policy_loss, rollout_mean, token_mean


def loss_of(ratio: float, advantage: float, **clips: float) -> tuple[float, float, bool]:
    """Loss, its derivative by log p_new, and whether it was clipped, of one token."""
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found = policy_loss(new, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64), **clips)
    found.loss.sum().backward()
    return found.loss.item(), new.grad.item(), bool(found.clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, False),
        (1.2, 1.0, -1.2, -1.2, False),
        (1.5, 1.0, -1.28, 0.0, True),
        (0.5, 1.0, -0.5, -0.5, False),
        (0.5, -1.0, 0.8, 0.0, True),
        (0.9, -1.0, 0.9, 0.9, False),
        (1.5, -1.0, 1.5, 1.5, False),
        (2.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_the_policy_loss_clips_only_what_goes_too_far_in_its_own_direction(
    ratio: float, advantage: float, loss: float, slope: float, clipped: bool
) -> None:
    assert loss_of(ratio, advantage, clip_low=0.2, clip_high=0.28) == (pytest.approx(loss), pytest.approx(slope), clipped)


def test_an_extreme_log_ratio_stays_finite() -> None:
    found = policy_loss(torch.tensor([0.0]), torch.tensor([-1000.0]), torch.tensor([-1.0]))
    assert float(found.loss) == pytest.approx(math.exp(20.0), rel=1e-5)


def test_metrics_are_sums_of_the_named_estimators() -> None:
    new = torch.tensor([math.log(1.5), 0.0], dtype=torch.float64)
    found = policy_loss(new, torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)).metrics()
    assert float(found["ratio"]) == pytest.approx(2.5)
    assert float(found["clip_fraction"]) == 1.0
    assert float(found["approx_kl"]) == pytest.approx(0.5 * math.log(1.5) ** 2)
    assert float(found["mismatch_kl"]) == pytest.approx(0.5 - math.log(1.5))


def test_the_kl_term_has_the_value_of_k3_and_the_expected_gradient_of_the_divergence() -> None:
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.2, -0.4, 0.6], dtype=torch.float64).log_softmax(0)
    new = logits.log_softmax(0)
    sampled = kl_loss(new, reference)
    difference = reference - new
    assert torch.allclose(sampled, difference.exp() - difference - 1.0)
    # The expectation over p of the estimator's gradient, with p itself not differentiated, as when sampling from it.
    expected = torch.autograd.grad((new.exp().detach() * sampled).sum(), logits, retain_graph=True)[0]
    exact = torch.autograd.grad((new.exp() * (new - reference)).sum(), logits)[0]
    assert torch.allclose(expected, exact, atol=1e-12)


def test_entropy_of_a_flat_distribution_is_the_log_of_its_size() -> None:
    assert entropy(torch.zeros(1, 8).log_softmax(-1)).item() == pytest.approx(math.log(8), abs=1e-6)


def test_weights_follow_their_formulas(make_row) -> None:
    rows = [
        make_row("a", range(5), [0, 1, 1, 0, 1]),
        make_row("a", range(3), [0, 0, 1]),
        make_row("b", range(3), [0, 1, 1]),
    ]
    assert rollout_mean(rows) == [1 / (2 * 4), 1 / (2 * 4), 1 / (2 * 2)]
    assert token_mean(rows) == [1 / 6] * 3
    assert constant(rows, horizon=10) == [1 / 20] * 3


@pytest.mark.parametrize("aggregation", list(AGGREGATIONS.values()), ids=list(AGGREGATIONS))
def test_a_rollout_without_a_trained_token_is_refused_by_every_aggregation(make_row, aggregation) -> None:
    with pytest.raises(ConfigError, match="no trained token"):
        aggregation([make_row("a", range(3), [0, 0, 0])])
