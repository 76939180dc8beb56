"""95 % intervals of mean rewards, and of how much a mean changed on the same tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

Z = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with its 95 % interval."""

    mean: float
    low: float | None = None
    """None where one value alone says nothing of the spread."""
    high: float | None = None
    n: int = 1
    """How many values the mean is of."""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean of rewards: Wilson's score interval when all are 0 or 1, else the normal one; None without values.

    Wilson's interval stays within 0 and 1 and keeps a width when all rewards are equal, where the normal one has none.
    """
    if not values:
        return None
    n, mean = len(values), sum(values) / len(values)
    if _binary(values):
        low, high = wilson(sum(values), n)
        return Estimate(mean=mean, low=low, high=high, n=n)
    return _normal(values)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927)."""
    share, squared = successes / n, Z * Z
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = Z * math.sqrt(share * (1 - share) / n + squared / (4 * n * n)) / (1 + squared / n)
    # The ends are exact where they meet the edge, which rounding would miss.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def change(before: Sequence[float], after: Sequence[float]) -> Estimate | None:
    """Mean difference of paired rewards (i-th with i-th): Bonett and Price's interval for 0 and 1, else the normal one.

    Source: D. G. Bonett, R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data, 2012. It adds one to each kind of change, so that a few tasks that all got better prove little.
    """
    pairs = list(zip(before, after, strict=True))
    if not pairs:
        return None
    differences = [new - old for old, new in pairs]
    if not (_binary(before) and _binary(after)):
        return _normal(differences)
    n = len(pairs)
    better, worse = ((differences.count(sign) + 1) / (n + 2) for sign in (1, -1))
    half = Z * math.sqrt((better + worse - (better - worse) ** 2) / (n + 2))
    low, high = max(-1.0, better - worse - half), min(1.0, better - worse + half)
    return Estimate(mean=sum(differences) / n, low=low, high=high, n=n)


def _normal(values: Sequence[float]) -> Estimate:
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return Estimate(mean=mean)
    half = Z * math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=n)


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
