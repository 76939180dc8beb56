"""Advantages: VERL's estimators over rollouts, one value per rollout and role.

VERL computes them over the rows of its batch; an agent's rollout has as many rows as its calls need. Here each rollout is one row, in
whole groups, before anything is left out of the batch, and in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from agl.errors import ConfigError, RewardError

Values = Sequence[Sequence[float | None]]
"""For each group one value per rollout; None marks a rollout without a reward, which is out of the statistics."""
Estimate = Callable[[Values, Sequence[Sequence[int]]], list[list[float]]]
"""(values, trained tokens per rollout) to one advantage per rollout; 0 for one without a value."""

WITHIN_GROUPS = ("grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "opo", "grpo_passk", "gpg")
"""Estimators that compare siblings: a group without spread has nothing to compare, and is exactly 0."""
OVER_BATCH = ("reinforce_plus_plus", "reinforce_plus_plus_baseline")
ESTIMATORS = (*WITHIN_GROUPS, *OVER_BATCH)
"""Names of VERL that need one value per rollout and no second model."""


def check_estimator(name: str) -> str:
    """The name, if it can be used with an agent's rollouts.

    Raises:
        ConfigError: it needs values of tokens or a second rollout.
    """
    if name not in ESTIMATORS:
        raise ConfigError(
            f"`algorithm.adv_estimator` can be one of {sorted(ESTIMATORS)}, given was {name!r}: an agent's rollout has one value, and "
            "estimators with a critic or a greedy second rollout need more"
        )
    return name


def estimator(name: str, config: Any) -> Estimate:
    """VERL's estimator of that name, over rollouts.

    Args:
        config: VERL's `algorithm` section.
    """
    check_estimator(name)

    def estimate(values: Values, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        found = [[0.0] * len(group) for group in values]
        places = [(g, i) for g, group in enumerate(values) for i, value in enumerate(group) if value is not None and _counts(name, group)]
        if not places:
            return found
        rewards = [_finite(values[g][i]) for g, i in places]
        lengths = [max(1, tokens[g][i]) for g, i in places]
        for (g, i), advantage in zip(places, _verl(name, rewards, lengths, [g for g, _ in places], config), strict=True):
            found[g][i] = advantage
        return found

    return estimate


def _counts(name: str, group: Sequence[float | None]) -> bool:
    """Whether a group can tell anything: VERL gives a lone rollout A = r, and a constant group rounding errors over rounding errors."""
    return name in OVER_BATCH or len({value for value in group if value is not None}) > 1


def _finite(value: float | None) -> float:
    if value is None or not math.isfinite(value):
        raise RewardError(f"rewards must be finite numbers, one is {value}; give None for a rollout that has no reward")
    return value


def _verl(name: str, rewards: Sequence[float], lengths: Sequence[int], groups: Sequence[int], config: Any) -> list[float]:
    """One advantage per rollout, from VERL's function on a batch with one row per rollout, the reward on its last token."""
    import numpy as np
    import torch
    from verl.trainer.ppo import core_algos

    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).to(torch.float64)  # (R, T)
    token_rewards = torch.zeros_like(mask)
    token_rewards[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = torch.tensor(rewards, dtype=torch.float64)
    options: dict[str, Any] = {"config": config}
    if name != "reinforce_plus_plus":
        options["index"] = np.array([str(group) for group in groups], dtype=object)
    if name in ("grpo", "grpo_vectorized", "grpo_passk"):
        options["norm_adv_by_std_in_grpo"] = bool(config.get("norm_adv_by_std_in_grpo", True))
    advantages, _ = core_algos.get_adv_estimator_fn(name)(token_level_rewards=token_rewards, response_mask=mask, **options)
    return advantages[:, 0].tolist()
