"""Advantages: how much better a rollout did than its siblings on the same task.

Statistics are over rollouts, one value per rollout, whatever the number of calls or rows it was recorded in, and in float64:
in float32 a constant group of fractional rewards has a standard deviation of rounding errors, and dividing those by themselves
gives advantages of up to 0.1 out of nothing.

A group of one has nothing to compare with, so its advantage is 0. (verl takes mean 0 and deviation 1 there, so that A = r: it
then reinforces whatever was sampled as soon as rewards are positive, without a baseline.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agl.errors import RewardError

Estimator = Callable[[Sequence[float | None]], list[float]]
"""(G,) rewards of one group to (G,) advantages; None marks a rollout without a reward, which is out of the baseline and gets 0."""

STD_EPSILON = 1e-6


def grpo(rewards: Sequence[float | None]) -> list[float]:
    """(r - mean) / (std + 1e-6), with the sample standard deviation (ddof = 1). DeepSeekMath, arXiv 2402.03300, section 4.1.2.

    Args:
        rewards: (G,) one per rollout of the group; None for rollouts that are excluded.

    Returns:
        (G,) advantages; exactly 0 in a constant group, in a group of one, and for excluded rollouts.

    Raises:
        RewardError: a reward is not finite.
    """

    def scaled(values: list[float]) -> list[float]:
        mean = _mean(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return [(value - mean) / (std + STD_EPSILON) for value in values]

    return _over_rewarded(rewards, scaled)


def dr_grpo(rewards: Sequence[float | None]) -> list[float]:
    """r - mean: no division by the deviation, which favours tasks that are nearly solved or nearly hopeless. arXiv 2503.20783, equation 3.

    Args, returns and raises as `grpo`.
    """

    def centred(values: list[float]) -> list[float]:
        mean = _mean(values)
        return [value - mean for value in values]

    return _over_rewarded(rewards, centred)


def rloo(rewards: Sequence[float | None]) -> list[float]:
    """r - mean of the others = G / (G - 1) · (r - mean). arXiv 2402.14740, equation 8.

    Unbiased, since a rollout is not in its own baseline.

    Args, returns and raises as `grpo`; G counts the rollouts that have a reward.
    """

    def against_others(values: list[float]) -> list[float]:
        total = math.fsum(values)
        return [value - (total - value) / (len(values) - 1) for value in values]

    return _over_rewarded(rewards, against_others)


ESTIMATORS: dict[str, Estimator] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}
"""Advantage estimators by name."""


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _over_rewarded(rewards: Sequence[float | None], formula: Callable[[list[float]], list[float]]) -> list[float]:
    values = [float(reward) for reward in rewards if reward is not None]
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise RewardError(f"rewards must be finite numbers, this group has {wrong}; give None for a rollout that has no reward")
    if not values or min(values) == max(values):
        return [0.0] * len(rewards)
    found = iter(formula(values))
    return [0.0 if reward is None else next(found) for reward in rewards]
