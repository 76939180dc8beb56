"""Statistics: a hierarchical posterior over candidates, and a paired test.

The model of a reward: ``y = theta[candidate] + beta[task] + interaction + noise``, all Gaussian, with
``theta[child] ~ N(theta[parent] + mu, tau^2)``: a child is like its parent until its own rewards say otherwise, which
shrinks lucky children and lets everything below a candidate speak for it. ``beta`` makes candidates comparable that were
drawn on different tasks. The variances are estimated with a weak prior each: noise and interaction by moments, that of the tasks by EM (Searle,
Casella, McCulloch, *Variance Components*, 1992); given them the posterior over the tree is exact (Gaussian belief propagation, Pearl
1988).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random

import msgspec

from agl_apo.search.evidence import Cell, TaskKey

SWEEPS = 10
"""Turns of fitting task offsets and candidates against each other."""
PRIOR_WEIGHT = 4.0
"""Observations that the prior of each variance counts for."""
DRIFT_WEIGHT = 5.0
"""Children that the prior of the drift counts for."""
SURE = 8
"""Repeats that must agree before rewards count as free of noise."""


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
    drift: float
    """Mean change from a parent to its child."""


Row = tuple[str, TaskKey, int, float]
"""Candidate, task, number of rewards, their mean."""


def fit(
    cells: Mapping[str, Mapping[TaskKey, Cell]],
    parents: Mapping[str, str | None],
    *,
    step_sd: float,
    drift: float = 0.0,
    start: Fit | None = None,
) -> Fit:
    """Fit the model.

    Args:
        cells: Rewards by candidate and task; candidates without any are allowed.
        parents: Parent of each candidate, parents before children.
        step_sd: tau as a share of the standard deviation of all rewards.
        drift: What mu is a priori, as a share of the same; counts for `DRIFT_WEIGHT` children.
        start: An earlier fit of fewer rewards, to go on from: one turn is enough then.

    Raises:
        ValueError: there is no reward at all.
    """
    rows = [(name, key, cell.n, cell.total / cell.n) for name in parents for key, cell in cells.get(name, {}).items()]
    count, total, squares, within, repeats = _sums(cells, parents)
    if not count:
        raise ValueError("there is no reward to fit")
    centre = total / count
    scale = max(squares / count - centre * centre, 1e-6)
    step = step_sd * step_sd * scale
    noise = _noise(within, repeats, prior=scale / 2)
    interaction, task = (scale / 4, scale / 10) if start is None else (start.variances.interaction, start.variances.task)
    offsets = {} if start is None else start.offsets
    prior = drift * math.sqrt(scale)
    mu = prior if start is None else start.drift
    posterior = None
    for _ in range(SWEEPS if start is None else 1):
        weights = [1.0 / (interaction + noise / n + 1e-9) for _, _, n, _ in rows]
        precision, mean = _of_candidates(rows, weights, offsets)
        posterior = Posterior(parents, precision, mean, step=step, drift=mu, root_mean=centre, root_variance=4 * scale)
        mu = _drift(posterior.mean, precision, parents, step, prior)
        offsets, task = _of_tasks(rows, weights, posterior.mean, task, prior=scale / 10)
        interaction = _interaction(rows, posterior.mean, offsets, noise, prior=scale / 4)
    assert posterior is not None
    return Fit(posterior, offsets, Variances(noise, interaction, task, step), mu)


def _sums(cells: Mapping[str, Mapping[TaskKey, Cell]], names: Iterable[str]) -> tuple[int, float, float, float, int]:
    # Of all rewards: number, sum, sum of squares; of repeats: squares around their cell's mean, and how many more than one there are.
    count, total, squares, within, repeats = 0, 0.0, 0.0, 0.0, 0
    for name in names:
        for cell in cells.get(name, {}).values():
            count, total, squares = count + cell.n, total + cell.total, squares + cell.squares
            if cell.n > 1:
                within, repeats = within + cell.within, repeats + cell.n - 1
    return count, total, squares, within, repeats


def _noise(within: float, repeats: int, prior: float) -> float:
    # Many repeats that all agree are no noise; fewer leave what the prior says.
    if repeats >= SURE and within <= 1e-12:
        return 0.0
    return (within + PRIOR_WEIGHT * prior) / (repeats + PRIOR_WEIGHT)


def _of_candidates(
    rows: Sequence[Row], weights: Sequence[float], offsets: Mapping[TaskKey, float]
) -> tuple[dict[str, float], dict[str, float]]:
    precision: dict[str, float] = {}
    moment: dict[str, float] = {}
    for (name, key, _, mean), weight in zip(rows, weights, strict=True):
        precision[name] = precision.get(name, 0.0) + weight
        moment[name] = moment.get(name, 0.0) + weight * (mean - offsets.get(key, 0.0))
    return precision, {name: moment[name] / precision[name] for name in precision}


def _of_tasks(
    rows: Sequence[Row], weights: Sequence[float], means: Mapping[str, float], task: float, prior: float
) -> tuple[dict[TaskKey, float], float]:
    # Offsets of the tasks, and the variance that they speak for: a step of EM.
    precision: dict[TaskKey, float] = {}
    moment: dict[TaskKey, float] = {}
    for (name, key, _, mean), weight in zip(rows, weights, strict=True):
        precision[key] = precision.get(key, 0.0) + weight
        moment[key] = moment.get(key, 0.0) + weight * (mean - means[name])
    found = {key: moment[key] / (precision[key] + 1.0 / task) for key in precision}
    middle = math.fsum(found.values()) / len(found)
    offsets = {key: value - middle for key, value in found.items()}
    squares = math.fsum(offsets[key] ** 2 + 1.0 / (precision[key] + 1.0 / task) for key in offsets)
    return offsets, (squares + PRIOR_WEIGHT * prior) / (len(offsets) + PRIOR_WEIGHT)


def _drift(
    means: Mapping[str, float], precision: Mapping[str, float], parents: Mapping[str, str | None], step: float, prior: float
) -> float:
    # A child that was hardly drawn repeats what the drift was: it counts by how much its own rewards say.
    weight, moment = DRIFT_WEIGHT, DRIFT_WEIGHT * prior
    for name, parent in parents.items():
        if parent is not None and name in precision:
            share = precision[name] * step / (1.0 + precision[name] * step)
            weight += share
            moment += share * (means[name] - means[parent])
    return moment / weight


def _interaction(rows: Sequence[Row], means: Mapping[str, float], offsets: Mapping[TaskKey, float], noise: float, prior: float) -> float:
    # A squared residual of a cell is interaction + noise / n in the mean.
    left = math.fsum((mean - means[name] - offsets[key]) ** 2 - noise / n for name, key, n, mean in rows)
    return max((left + PRIOR_WEIGHT * prior) / (len(rows) + PRIOR_WEIGHT), prior / 25)


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
    if error <= 1e-9 * abs(mean):
        return _unanimous(n, mean)
    half = student_quantile(0.975, freedom) * error
    return PairedTest(n=n, mean=mean, low=mean - half, high=mean + half, p_better=student_cdf(mean / error, freedom))


def _unanimous(n: int, mean: float) -> PairedTest:
    """Equal differences, without noise: how sure `n` tasks are of all others is a question of signs alone.

    P(better) is that of more than half of the tasks, under a flat prior on their share. At most 1 - 0.05 ** (1 / n) of the tasks say otherwise,
    with 95 %; the interval has room for as many that do not change.
    """
    sign = (mean > 0) - (mean < 0)
    low, high = sorted((mean, mean * 0.05 ** (1 / n)))
    return PairedTest(n=n, mean=mean, low=low, high=high, p_better=0.5 + sign * (0.5 - 0.5 ** (n + 1)))


def student_cdf(t: float, freedom: float) -> float:
    """Cumulative distribution of Student's t."""
    tail = 0.5 * incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1.0 - tail if t > 0 else tail


def student_quantile(p: float, freedom: float) -> float:
    """Quantile of Student's t, by bisection."""
    low, high = -1e3, 1e3
    while high - low > 1e-9:
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
    *_, within, repeats = _sums(cells, cells)
    return math.sqrt(within / repeats) if repeats else math.nan
