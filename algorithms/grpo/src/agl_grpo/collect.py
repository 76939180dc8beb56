"""Collect: what one step learns from, out of the finished groups, and why the rest is left out."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from agl.errors import DataError
from agl.results import Group, RolloutResult, failures_of
from agl.transitions import Row
from agl_grpo.advantages import ESTIMATORS, Estimator


def learning_rows(groups: Sequence[Group], estimator: str) -> tuple[list[Row], list[Sequence[float]]]:
    """Rows of all rollouts that have a reward, with an advantage for each token.

    Group statistics are over rollouts, one value per rollout and role: the mean reward of the role's calls, which is the
    rollout's reward where no call has one of its own. What a call got beyond that mean is added to its advantage.

    Returns:
        (K,) rows and, for each, (S,) advantages, 0 outside its mask.

    Raises:
        DataError: rollouts have rewards, yet no call of theirs can be trained; says why.
    """
    rows: list[Row] = []
    advantages: list[Sequence[float]] = []
    for group in groups:
        by_role = _by_role(group, ESTIMATORS[estimator])
        for index, result in enumerate(group.results):
            for row in result.rows():
                per_call = []
                for call in row.transitions:
                    value, advantage = by_role[call.role][index]
                    per_call.append(advantage + ((call.reward or 0.0) - value))
                rows.append(row)
                advantages.append([per_call[owner] if owner >= 0 else 0.0 for owner in row.owners])
    if not rows and any(reward is not None for group in groups for reward in group.rewards):
        raise DataError(f"no call of {sum(len(group.results) for group in groups)} rollouts can be trained: {why_untrained(groups)}")
    return rows, advantages


def _by_role(group: Group, estimator: Estimator) -> dict[str | None, list[tuple[float, float]]]:
    """For each role (value, advantage) of every rollout of a group."""
    roles = {call.role for result in group.results for call in result.transitions}
    found: dict[str | None, list[tuple[float, float]]] = {}
    for role in roles:
        values = [_value(result, role) for result in group.results]
        found[role] = [(value or 0.0, advantage) for value, advantage in zip(values, estimator(values), strict=True)]
    return found


def _value(result: RolloutResult, role: str | None) -> float | None:
    if result.reward is None:
        return None
    own = [call.reward for call in result.transitions if call.role == role and call.trainable and call.reward is not None]
    return statistics.fmean(own) if own else result.reward


def shuffled(groups: Sequence[Group], seed: str) -> list[Group]:
    """The groups with their rewards permuted over all rollouts: the control in which nothing can be learned."""
    results = [result for group in groups for result in group.results]
    rewards = [result.rewards for result in results]
    random.Random(seed).shuffle(rewards)
    given = iter(rewards)

    def with_reward(result: RolloutResult) -> RolloutResult:
        changed = msgspec.structs.replace(result, rewards=next(given))
        calls = tuple(msgspec.structs.replace(call, reward=changed.reward) for call in result.transitions)
        return msgspec.structs.replace(changed, transitions=calls)

    return [msgspec.structs.replace(group, results=tuple(with_reward(result) for result in group.results)) for group in groups]


def group_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """What the rollouts of a step were like, for its line of metrics."""
    results = [result for group in groups for result in group.results]
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    calls = [call for result in results for call in result.transitions]
    deviation = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
    return {
        "reward": statistics.fmean(rewards) if rewards else None,
        "reward_interval": 1.96 * deviation / len(rewards) ** 0.5 if rewards else None,
        "groups": len(groups),
        "groups_used": sum(group.has_spread() for group in groups),
        "rollouts": len(results),
        "excluded": sum(result.reward is None for result in results),
        "failures": dict(failures_of(results)),
        "calls": len(calls),
        "calls_trained": sum(call.trainable for call in calls),
        "sampled_tokens": sum(len(call.response_ids) for call in calls),
    }


def why_untrained(groups: Sequence[Group]) -> str:
    """The reasons why calls are left out, most frequent first."""
    calls = [call for group in groups for result in group.results for call in result.transitions]
    if not calls:
        return "the agent made no LLM call through its attempt's endpoint (does it use another client than the OpenAI SDK, or another endpoint?)"
    reasons = Counter(call.untrained for call in calls if call.untrained is not None)
    return "; ".join(f"{count} calls: {reason}" for reason, count in reasons.most_common())
