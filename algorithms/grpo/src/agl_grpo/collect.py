"""Collect: what one step learns from, out of the finished groups, and why the rest is left out."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from agl.errors import DataError
from agl.resources import Resources
from agl.results import Group, RolloutResult, failures_of
from agl.transitions import Row
from agl.untrained import call_counts, why_untrained
from agl_grpo.advantages import ESTIMATORS, Estimator

BASELINES = ("group", "role")


def learning_rows(
    groups: Sequence[Group], estimator: str, baseline: str = "group", resources: Resources | None = None
) -> tuple[list[Row], list[Sequence[float]]]:
    """Rows of all rollouts that have a reward, with an advantage for each token.

    Group statistics are over rollouts, one value per rollout and role: the mean reward of the role's calls, which is the
    rollout's reward where no call has one of its own. What a call got beyond that mean, and its `step_advantage`, are added to
    its advantage.

    Args:
        baseline: `group` compares a role with all siblings: one in which the role made no call counts with its reward. `role`
            compares it with those siblings only in which it made one.
        resources: where the endpoints stand that an error names.

    Returns:
        (K,) rows and, for each, (S,) advantages, 0 outside its mask.

    Raises:
        DataError: rollouts have rewards, yet no call of theirs can be trained; says why.
    """
    rows: list[Row] = []
    advantages: list[Sequence[float]] = []
    for group in groups:
        by_role = _by_role(group, ESTIMATORS[estimator], baseline)
        for index, result in enumerate(group.results):
            for row in result.rows():
                per_call = []
                for call in row.transitions:
                    value, advantage = by_role[call.role][index]
                    per_call.append(advantage + ((call.reward or 0.0) - value) + call.step_advantage)
                rows.append(row)
                advantages.append([per_call[owner] if owner >= 0 else 0.0 for owner in row.owners])
    if not rows and any(reward is not None for group in groups for reward in group.rewards):
        count = sum(len(group.results) for group in groups)
        raise DataError(f"no call of {count} rollouts can be trained: {why_untrained(groups, resources)}")
    return rows, advantages


def _by_role(group: Group, estimator: Estimator, baseline: str) -> dict[str | None, list[tuple[float, float]]]:
    """For each role (value, advantage) of every rollout of a group."""
    roles = {call.role for result in group.results for call in result.transitions}
    found: dict[str | None, list[tuple[float, float]]] = {}
    for role in roles:
        values = [_value(result, role, absent=result.reward if baseline == "group" else None) for result in group.results]
        found[role] = [(value or 0.0, advantage) for value, advantage in zip(values, estimator(values), strict=True)]
    return found


def _value(result: RolloutResult, role: str | None, absent: float | None) -> float | None:
    if result.reward is None:
        return None
    calls = [call for call in result.transitions if call.role == role and call.trainable]
    own = [call.reward for call in calls if call.reward is not None]
    return statistics.fmean(own) if own else result.reward if calls else absent


def shuffled(groups: Sequence[Group], seed: str) -> list[Group]:
    """The groups with their rewards permuted over all rollouts: the control in which nothing can be learned."""
    results = [result for group in groups for result in group.results]
    rewards = [result.rewards for result in results]
    random.Random(seed).shuffle(rewards)
    given = iter(rewards)

    def with_reward(result: RolloutResult) -> RolloutResult:
        changed = msgspec.structs.replace(result, rewards=next(given))
        calls = tuple(msgspec.structs.replace(call, reward=changed.reward, step_advantage=0.0) for call in result.transitions)
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
        "retries": sum(result.rollout.attempt.number - 1 for result in results if result.rollout.attempt is not None),
        "truncated": sum(any(call.finish_reason == "length" for call in result.transitions) for result in results),
        **call_counts(calls),
        "calls": len(calls),
        "calls_trained": sum(call.trainable for call in calls),
        "sampled_tokens": sum(len(call.response_ids) for call in calls),
    }
