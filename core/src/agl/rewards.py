"""Reward: a named finite number, bound to a rollout, a call or a role, with its source. A missing reward is missing, never 0."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from agl.errors import RewardError

FINAL = "reward"
"""Name of the reward that judges the whole rollout."""
COMBINED = "combined"
"""Source of a final reward that is the weighted sum of others."""
LATE = "late"
"""Name in the details of a reward that came when its step was over, so that nothing has learned from it."""
FAILURE = "failure"
"""Source of the reward of a rollout in which the agent itself failed."""
RESERVED = frozenset({COMBINED, FAILURE})
"""Sources that no judge may name as its own."""


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement."""

    value: float
    name: str = FINAL
    source: str = "agent"
    """Who judged: `returned`, `agent` (emitted by its code), the name of a plugin or of one of the Trainer's rewards, `failure`, `combined`."""
    span_id: str | None = None
    """The call that it judges; None for the whole rollout."""
    role: str | None = None
    """The role that it judges; None for all."""
    created_at: float = 0.0
    details: dict[str, Any] = {}
    """What else the judge told, as JSON: rationale, tokens, order of the candidates."""


class NoReward(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement that could not be made, a judge that is down, say. The reward is missing; the reason is kept and shown."""

    reason: str
    name: str = FINAL
    source: str = "agent"


Judgement = Reward | NoReward


def make_reward(
    value: Any,
    *,
    name: str = FINAL,
    source: str,
    span_id: str | None = None,
    role: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Reward:
    """A checked reward; accepts int, float, bool and numpy or torch scalars.

    Raises:
        RewardError: None, NaN, infinite, a text, or anything else that is not one number.
    """
    number, now = _number(value, name, source), time.time()
    return Reward(value=number, name=name, source=source, span_id=span_id, role=role, created_at=now, details=dict(details or {}))


def _number(value: Any, name: str, source: str) -> float:
    item = getattr(value, "item", None)
    if callable(item) and not isinstance(value, (str, bytes)):
        try:
            value = item()
        except (TypeError, ValueError, RuntimeError) as error:
            raise RewardError(f"reward `{name}` from {source} must be one number, given was {value!r}: {error}") from None
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, (int, float)):
        given = f"{value!r} ({type(value).__name__})"
        raise RewardError(f"reward `{name}` from {source} must be a finite number, given was {given}; return a float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(f"reward `{name}` from {source} must be a finite number, given was {str(value)[:40]}; return a float")
    return number
