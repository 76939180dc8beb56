"""Statistics: a hierarchical posterior over candidates, and a paired test.

The model of a reward: ``y = theta[candidate] + beta[task] + interaction + noise``, all Gaussian, with
``theta[child] ~ N(theta[parent] + mu, tau^2)``: a child is like its parent until its own rewards say otherwise, which
shrinks lucky children and lets everything below a candidate speak for it. ``beta`` makes candidates comparable that were
drawn on different tasks. The variances are estimated by moments (as in a two-way random-effects analysis of variance, Searle, Casella,
McCulloch, *Variance Components*, 1992) with a weak prior each; given them the posterior over the tree is exact (Gaussian belief
propagation, Pearl 1988).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

import msgspec

from agl_apo.search.evidence import Cell, TaskKey

SWEEPS = 3
"""Turns of fitting task offsets and candidates against each other."""
PRIOR_WEIGHT = 4.0
"""Observations that the prior of each variance counts for."""


class Variances(msgspec.Struct, frozen=True):
    """Variances of the model, in squared units of the reward."""

    noise: float
    """Between repeated rewards of one candidate on one task."""
    interaction: float
    """Between tasks for one candidate, beyond the offsets that all candidates share."""
    task: float
    """Of the offsets of tasks."""
    step: float
    """Of the change from a parent to its child: tau^2."""


class Posterior:
    """Joint posterior of the candidates' mean rewards.

    Args:
        parents: Parent of every candidate in it, parents before children, None for the root.
        precision: Evidence's precision for each candidate.
        mean: Evidence's mean for each (anything where the precision is 0).
        step: Variance of the change from parent to child.
        drift: Mean of that change.
        root_mean: Prior mean of the root.
        root_variance: Prior variance of the root.
    """

    def __init__(
        self,
        parents: Mapping[str, str | None],
        precision: Mapping[str, float],
        mean: Mapping[str, float],
        *,
        step: float,
        drift: float = 0.0,
        root_mean: float = 0.0,
        root_variance: float = 1.0,
    ) -> None:
        self._parents, self._step, self._drift = dict(parents), step, drift
        self._root = (root_mean, root_variance)
        # Of each candidate and all below it: precision, and precision times mean.
        self._weight = {name: precision.get(name, 0.0) for name in parents}
        self._moment = {name: self._weight[name] * mean.get(name, 0.0) for name in parents}
        for name, parent in reversed(self._parents.items()):
            if parent is not None and self._weight[name] > 0.0:
                passed = 1.0 / (1.0 / self._weight[name] + step)
                self._weight[parent] += passed
                self._moment[parent] += passed * (self._moment[name] / self._weight[name] - drift)
        self.mean: dict[str, float] = {}
        """Posterior mean of each candidate."""
        self.variance: dict[str, float] = {}
        """Posterior variance of each candidate."""
        for name in self._parents:
            self.mean[name], self.variance[name] = self._marginal(name)

    def _given(self, name: str, above: float, variance: float) -> tuple[float, float]:
        # Mean and variance of a candidate, given N(above, variance) for it from above and the evidence at and below it.
        precision = self._weight[name] + 1.0 / variance
        return (self._moment[name] + above / variance) / precision, 1.0 / precision

    def _marginal(self, name: str) -> tuple[float, float]:
        parent = self._parents[name]
        if parent is None:
            return self._given(name, *self._root)
        # theta = gain * theta_parent + rest, by its conditional distribution given its parent.
        precision = self._weight[name] + 1.0 / self._step
        gain = 1.0 / self._step / precision
        rest = (self._moment[name] + self._drift / self._step) / precision
        return gain * self.mean[parent] + rest, 1.0 / precision + gain * gain * self.variance[parent]

    def sample(self, random: Random) -> dict[str, float]:
        """One joint draw of all mean rewards."""
        drawn: dict[str, float] = {}
        for name, parent in self._parents.items():
            above, variance = self._root if parent is None else (drawn[parent] + self._drift, self._step)
            mean, left = self._given(name, above, variance)
            drawn[name] = random.gauss(mean, math.sqrt(left))
        return drawn


class Fit(msgspec.Struct, frozen=True):
    """The posterior with what it was fitted by."""

    posterior: Posterior
    offsets: dict[TaskKey, float]
    """Offset of each task: how much easier it is than the mean task."""
    variances: Variances


def fit(cells: Mapping[str, Mapping[TaskKey, Cell]], parents: Mapping[str, str | None], *, step_sd: float, drift: float = 0.0) -> Fit:
    """Fit the model.

    Args:
        cells: Rewards by candidate and task; candidates without any are allowed.
        parents: Parent of each candidate, parents before children.
        step_sd: tau as a share of the standard deviation of all rewards.
        drift: mu as a share of the same.

    Raises:
        ValueError: there is no reward at all.
    """
    flat = [(name, key, cell) for name in parents for key, cell in cells.get(name, {}).items()]
    count = sum(cell.n for _, _, cell in flat)
    if not count:
        raise ValueError("there is no reward to fit")
    centre = math.fsum(cell.total for _, _, cell in flat) / count
    spread = max(math.fsum(cell.squares for _, _, cell in flat) / count - centre * centre, 0.0)
    scale = max(spread, 1e-6)
    noise = noise_variance(flat, prior=scale)
    interaction, task = scale / 4, scale / 10
    offsets: dict[TaskKey, float] = {}
    posterior = None
    for _ in range(SWEEPS):
        weights = {id(cell): 1.0 / (interaction + noise / cell.n + 1e-9) for _, _, cell in flat}
        precision: dict[str, float] = {}
        moment: dict[str, float] = {}
        for name, key, cell in flat:
            weight = weights[id(cell)]
            precision[name] = precision.get(name, 0.0) + weight
            moment[name] = moment.get(name, 0.0) + weight * (cell.mean - offsets.get(key, 0.0))
        posterior = Posterior(
            parents,
            precision,
            {name: moment[name] / precision[name] for name in precision},
            step=step_sd * step_sd * scale,
            drift=drift * math.sqrt(scale),
            root_mean=centre,
            root_variance=4 * scale,
        )
        offsets = _offsets(flat, posterior.mean, weights, task)
        task = _shrunk(list(offsets.values()), task)
        interaction = _interaction(flat, posterior.mean, offsets, noise, prior=scale / 4)
    assert posterior is not None
    return Fit(posterior, offsets, Variances(noise, interaction, task, step_sd * step_sd * scale))


def noise_variance(flat: Sequence[tuple[str, TaskKey, Cell]], prior: float) -> float:
    """Variance between repeats, pooled; `prior` counts as one repeat, so that a few that agree do not make it 0 at once."""
    squares = math.fsum(max(cell.squares - cell.total * cell.total / cell.n, 0.0) for _, _, cell in flat if cell.n > 1)
    repeats = sum(cell.n - 1 for _, _, cell in flat)
    if repeats >= 8 and squares == 0.0:
        return 0.0
    return (squares + PRIOR_WEIGHT * prior / 2) / (repeats + PRIOR_WEIGHT)


def _offsets(
    flat: Sequence[tuple[str, TaskKey, Cell]], means: Mapping[str, float], weights: Mapping[int, float], task: float
) -> dict[TaskKey, float]:
    precision: dict[TaskKey, float] = {}
    moment: dict[TaskKey, float] = {}
    for name, key, cell in flat:
        weight = weights[id(cell)]
        precision[key] = precision.get(key, 0.0) + weight
        moment[key] = moment.get(key, 0.0) + weight * (cell.mean - means[name])
    found = {key: moment[key] / (precision[key] + 1.0 / task) for key in precision}
    middle = math.fsum(found.values()) / len(found)
    return {key: value - middle for key, value in found.items()}


def _shrunk(values: Sequence[float], prior: float) -> float:
    return (math.fsum(value * value for value in values) + PRIOR_WEIGHT * prior) / (len(values) + PRIOR_WEIGHT)


def _interaction(
    flat: Sequence[tuple[str, TaskKey, Cell]], means: Mapping[str, float], offsets: Mapping[TaskKey, float], noise: float, prior: float
) -> float:
    # A squared residual of a cell is interaction + noise / n in the mean.
    left = math.fsum((cell.mean - means[name] - offsets[key]) ** 2 - noise / cell.n for name, key, cell in flat)
    return max((left + PRIOR_WEIGHT * prior) / (len(flat) + PRIOR_WEIGHT), prior / 25)


class PairedTest(msgspec.Struct, frozen=True, kw_only=True):
    """What paired differences say."""

    n: int
    mean: float
    low: float
    """Lower end of the central 95 % interval."""
    high: float
    p_better: float
    """P(true mean difference > 0)."""


def paired_test(differences: Sequence[float], scale: float) -> PairedTest:
    """Bayesian paired t test: posterior of the mean difference under a flat prior on it.

    The variance has a scaled inverse chi-squared prior worth two observations at `scale` squared (Gelman et al., *Bayesian Data Analysis*,
    3.3), so that few differences that happen to agree do not count as certainty.

    Raises:
        ValueError: no difference was given.
    """
    n = len(differences)
    if not n:
        raise ValueError("a paired test needs at least one common task")
    mean = math.fsum(differences) / n
    freedom = n + 1
    variance = (2 * scale * scale + math.fsum((value - mean) ** 2 for value in differences)) / freedom
    error = math.sqrt(variance / n)
    if error == 0.0:
        return PairedTest(n=n, mean=mean, low=mean, high=mean, p_better=0.5 + 0.5 * ((mean > 0) - (mean < 0)))
    half = student_quantile(0.975, freedom) * error
    return PairedTest(n=n, mean=mean, low=mean - half, high=mean + half, p_better=student_cdf(mean / error, freedom))


def student_cdf(t: float, freedom: float) -> float:
    """Cumulative distribution of Student's t."""
    tail = 0.5 * incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1.0 - tail if t > 0 else tail


def student_quantile(p: float, freedom: float) -> float:
    """Quantile of Student's t, by bisection."""
    low, high = -1e3, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Abramowitz and Stegun 26.5.8, evaluated as by Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    value, c, d = 1.0, 1.0, 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _nonzero(1.0 + term * d)
            c = _nonzero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-13:
            break
    return front * value


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def noise_sd(cells: Mapping[str, Mapping[TaskKey, Cell]]) -> float:
    """Standard deviation between repeated rewards of one candidate on one task; nan when nothing was repeated."""
    repeated = [cell for row in cells.values() for cell in row.values() if cell.n > 1]
    freedom = sum(cell.n - 1 for cell in repeated)
    squares = math.fsum(max(cell.squares - cell.total * cell.total / cell.n, 0.0) for cell in repeated)
    return math.sqrt(squares / freedom) if freedom else math.nan
