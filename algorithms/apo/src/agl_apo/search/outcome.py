"""Outcome: what a search ends with."""

from __future__ import annotations

import msgspec

from agl_apo.moves import Candidate


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a candidate's mean reward."""

    candidate_id: str
    mean: float
    """Posterior mean reward, in the unit of the rewards: on the validation tasks where the search drew on them, else on the training tasks."""
    low: float
    """Lower end of the central 95 % interval."""
    high: float
    """Upper end of it."""
    draws: int
    """Rewards behind it, on all tasks."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The winner or the seed, and why."""

    decision: str
    """`improved`, `no_significant_improvement`, `nothing_to_gain` or `no_evidence`."""
    winner: Candidate
    """What to use: the seed unless `decision` is `improved`."""
    seed: Candidate
    best: Candidate
    """The candidate that the gate judged; the seed where there was none."""
    estimates: tuple[Estimate, ...]
    """Of the seed, the winner and the other finalists, best first."""
    gain: float
    """Mean of the paired differences, best minus seed."""
    gain_low: float
    """Lower end of the central 95 % interval of the gain."""
    gain_high: float
    """Upper end of it."""
    p_better: float
    """P(best > seed) by the paired test; nan where there was no test."""
    pairs: int
    """Common tasks in the paired test."""
    spent: int
    """Rollouts."""
    cost: float
    """In the currency of `max_cost`."""
    noise_floor: float
    """Standard deviation of repeated rewards of one candidate on one task; nan when nothing was repeated."""
    reason: str
    """The decision in plain words."""
