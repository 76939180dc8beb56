"""Built-in credit: the first level of LightningRL (arXiv 2508.03680, section 3.3): each call gets the rollout's return.

What was given to a call itself is added, times the weight of its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agl.hookspecs import hookimpl
from agl.results import RolloutResult
from agl.rewards import COMBINED, FINAL
from agl.transitions import Transition


@hookimpl(trylast=True)
def agl_assign_credit(result: RolloutResult, transitions: Sequence[Transition]) -> Sequence[Transition]:
    """The rollout's reward to every call, plus what was given to the call itself; a role's own final reward goes first."""
    combining, weights = result.rollout.reward_weights is not None, result.rollout.reward_weights or {}
    by_role: dict[str | None, float] = {
        reward.role: reward.value
        for reward in result.rewards
        if reward.name == FINAL and reward.role is not None and (reward.source == COMBINED or not combining)
    }
    by_call: dict[str, float] = {}
    for reward in result.rewards:
        if reward.span_id is not None and reward.name != FINAL:
            by_call[reward.span_id] = by_call.get(reward.span_id, 0.0) + weights.get(reward.name, 1.0) * reward.value
    final = result.reward

    def share(item: Transition) -> float | None:
        base = by_role.get(item.role, final)
        own = by_call.get(item.span_id)
        return base if own is None else own + (base or 0.0)

    return [msgspec.structs.replace(item, reward=share(item)) for item in transitions]
