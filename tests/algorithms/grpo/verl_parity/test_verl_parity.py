"""The same numbers as verl 0.9.1, in an environment that has it; collected only there.

Run with `pytest tests/algorithms/grpo/verl_parity`. Where this package differs on purpose, a test says how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo import core_algos
from verl.workers.config import FSDPActorConfig

from agl_grpo.advantages import ESTIMATORS, dr_grpo, grpo, rloo
from agl_grpo.losses import constant, kl_loss, policy_loss, rollout_mean, token_mean

GROUPS = {
    "mixed": [1.0, 0.0, 0.0, 1.0, 1.0],
    "graded": [0.25, -1.5, 3.0, 0.125],
    "pair": [1.0, 0.0],
    "zeros": [0.0] * 6,
}


def verl_advantages(name: str, rewards: list[float], **options: Any) -> list[float]:
    function = {"grpo": core_algos.compute_grpo_outcome_advantage, "rloo": core_algos.compute_rloo_outcome_advantage}[name]
    token_rewards = torch.zeros(len(rewards), 3, dtype=torch.float64)
    token_rewards[:, -1] = torch.tensor(rewards, dtype=torch.float64)
    mask = torch.ones(len(rewards), 3, dtype=torch.float64)
    return function(token_rewards, mask, np.array(["task"] * len(rewards)), **options)[0][:, 0].tolist()


@pytest.mark.parametrize("rewards", list(GROUPS.values()), ids=list(GROUPS))
def test_advantages_are_verls(rewards: list[float]) -> None:
    assert grpo(rewards) == pytest.approx(verl_advantages("grpo", rewards), abs=1e-6)
    assert dr_grpo(rewards) == pytest.approx(verl_advantages("grpo", rewards, norm_adv_by_std_in_grpo=False), abs=1e-12)
    assert rloo(rewards) == pytest.approx(verl_advantages("rloo", rewards), abs=1e-12)


def test_a_group_of_one_differs_on_purpose() -> None:
    assert verl_advantages("grpo", [0.7]) == pytest.approx([0.7], abs=1e-5)
    assert [estimate([0.7]) for estimate in ESTIMATORS.values()] == [[0.0]] * 3


def test_a_constant_group_of_fractions_differs_on_purpose() -> None:
    """In float32, as verl computes it, rounding errors divided by rounding errors are not 0 for some sizes; here they are."""
    worst = 0.0
    for size in range(2, 65):
        token_rewards = torch.full((size, 1), 0.1)
        found = core_algos.compute_grpo_outcome_advantage(token_rewards, torch.ones(size, 1), np.array(["task"] * size))[0]
        worst = max(worst, float(found.abs().max()))
        assert grpo([0.1] * size) == [0.0] * size
    assert worst > 0.0


@pytest.fixture(scope="module")
def tokens() -> dict[str, torch.Tensor]:
    """(4, 6) random tokens of four rollouts; every length differs."""
    generator = torch.Generator().manual_seed(0)
    old = -3.0 * torch.rand(4, 6, generator=generator, dtype=torch.float64)
    new = old + 0.5 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1], [4]])).to(torch.float64)
    advantages = torch.tensor([[1.5], [-0.5], [-2.0], [0.25]], dtype=torch.float64).expand(4, 6)
    return {"old": old, "new": new, "mask": mask, "advantages": advantages}


@pytest.mark.parametrize(
    ("mode", "weigh", "options"),
    [("seq-mean-token-mean", rollout_mean, {}), ("token-mean", token_mean, {}), ("seq-mean-token-sum-norm", constant, {"horizon": 6})],
)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.05, 0.4)])
def test_loss_gradient_and_metrics_are_those_of_verls_vanilla_loss(
    tokens, make_row, mode: str, weigh: Any, options: dict[str, Any], low: float, high: float
) -> None:
    # Without verl's third bound for negative advantages (dual clip), which this package does not have.
    config = FSDPActorConfig(
        clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=1e12, rollout_n=4, ppo_micro_batch_size_per_gpu=1
    )
    theirs_new = tokens["new"].clone().requires_grad_()
    theirs, metrics = core_algos.compute_policy_loss_vanilla(tokens["old"], theirs_new, tokens["advantages"], tokens["mask"], mode, config)
    theirs.backward()

    ours_new = tokens["new"].clone().requires_grad_()
    on = tokens["mask"].bool()
    found = policy_loss(ours_new[on], tokens["old"][on], tokens["advantages"][on], low, high)
    rows = [make_row(str(index), range(7), [False, *row.tolist()]) for index, row in enumerate(on)]
    weights = torch.tensor(weigh(rows, **options), dtype=torch.float64)[:, None].expand(4, 6)[on]
    ours = (found.loss * weights).sum()
    ours.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-7)
    assert torch.allclose(ours_new.grad, theirs_new.grad, atol=1e-7)
    count = len(found.loss)
    assert found.metrics()["clip_fraction"].item() / count == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)


@pytest.mark.parametrize("name", ["k3", "k3+"])
def test_the_value_of_the_kl_is_verls_k3_and_its_gradient_that_of_k3_plus(tokens, name: str) -> None:
    theirs_new, ours_new = tokens["new"].clone().requires_grad_(), tokens["new"].clone().requires_grad_()
    theirs, ours = core_algos.kl_penalty(theirs_new, tokens["old"], name), kl_loss(ours_new, tokens["old"])
    assert torch.allclose(ours, theirs, atol=1e-12)
    theirs.sum().backward()
    ours.sum().backward()
    assert torch.allclose(ours_new.grad, theirs_new.grad, atol=1e-12) == (name == "k3+")
