"""Final: the best candidates and the seed on common validation tasks, and the gate that keeps the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from agl_apo.moves import SEED, Candidate
from agl_apo.search.evidence import Evidence, usable
from agl_apo.search.outcome import Estimate, Outcome
from agl_apo.search.statistics import Fit, PairedTest, fit, noise_sd, paired_test

Z95 = 1.959964
"""Normal quantile of the central 95 %."""


def rounds_of(arms: int) -> int:
    """Rounds of successive halving (Karnin, Koren, Somekh 2013) until one arm is left, the round that it is measured in included."""
    return max(1, math.ceil(math.log2(arms + 1)))


def tasks_each(left: int, arms: int) -> int:
    """Tasks for each arm and for the seed in the next round, out of `left` rollouts for all rounds to come."""
    return max(0, left) // rounds_of(arms) // (arms + 1)


def halved(arms: Sequence[str], means: dict[str, float]) -> list[str]:
    """The better half of the arms."""
    return sorted(arms, key=lambda name: -means[name])[: len(arms) // 2]


def gate(best: str, evidence: Evidence, fitted: Fit) -> PairedTest | None:
    """The best candidate against the seed on the validation tasks that both were drawn on; None when there is none."""
    differences = evidence.differences(best, SEED, "val")
    if best == SEED or not differences:
        return None
    return paired_test(differences, math.sqrt(2.0 * (fitted.variances.noise + fitted.variances.interaction)))


def conclude(
    candidates: Mapping[str, Candidate],
    evidence: Evidence,
    *,
    decision: str,
    reason: str,
    best: str = SEED,
    finalists: Sequence[str] = (),
    test: PairedTest | None = None,
    step_sd: float = 0.3,
) -> Outcome:
    """The outcome of a search."""
    outcome = Outcome(
        decision=decision,
        winner=candidates[best if decision == "improved" else SEED],
        seed=candidates[SEED],
        best=candidates[best],
        estimates=estimates(candidates, evidence, {SEED, best, *finalists}, step_sd),
        gain=test.mean if test else 0.0,
        gain_low=test.low if test else math.nan,
        gain_high=test.high if test else math.nan,
        p_better=test.p_better if test else math.nan,
        pairs=test.n if test else 0,
        spent=evidence.spent,
        cost=evidence.cost,
        noise_floor=noise_sd(evidence.cells),
        reason=reason,
    )
    return bounded(outcome, evidence)


def bounded(outcome: Outcome, evidence: Evidence) -> Outcome:
    """The outcome with estimates and intervals that keep to what is possible.

    Where every reward so far was 0 or 1 they count as failures and successes, as in `agl.report.intervals`: a mean lies between 0 and 1, and a
    gain between -1 and 1. Of other rewards nobody has said what they can be, so nothing is cut. No probability changes, and no decision.
    """
    rewards = [draw.reward for draws in evidence.draws.values() for _, draw in draws if usable(draw)]
    if not all(reward in (0, 1) for reward in rewards):
        return outcome
    return msgspec.structs.replace(
        outcome,
        gain_low=_within(outcome.gain_low, -1.0),
        gain_high=_within(outcome.gain_high, -1.0),
        estimates=tuple(_possible(estimate) for estimate in outcome.estimates),
    )


def _possible(found: Estimate) -> Estimate:
    return msgspec.structs.replace(found, mean=_within(found.mean, 0.0), low=_within(found.low, 0.0), high=_within(found.high, 0.0))


def _within(value: float, least: float) -> float:
    return value if math.isnan(value) else max(least, min(1.0, value))


def estimates(candidates: Mapping[str, Candidate], evidence: Evidence, names: set[str], step_sd: float) -> tuple[Estimate, ...]:
    """What is reported of candidates, best first.

    The prior is more sceptical than the one that searches: no change is expected, and half the spread. The search may hope, since a
    mistake costs it some rollouts; what it reports was chosen for looking good, and is shrunk the more for it.
    """
    parents = {name: one.parent_id for name, one in candidates.items()}
    if not any(evidence.count(name) for name in parents):
        return ()
    fitted = fit(evidence.cells, parents, step_sd=step_sd / 2, drift=0.0)
    split = "val" if any(of == "val" for of, _ in fitted.offsets) else "train"
    offsets = [value for (of, _), value in fitted.offsets.items() if of == split]
    middle = math.fsum(offsets) / len(offsets)
    made = []
    for name in sorted(names):
        mean, half = fitted.posterior.mean[name] + middle, Z95 * math.sqrt(fitted.posterior.variance[name])
        made.append(Estimate(candidate_id=name, mean=mean, low=mean - half, high=mean + half, draws=evidence.count(name)))
    return tuple(sorted(made, key=lambda one: -one.mean))
