"""Batch: finished groups as the rows of VERL's batch, with advantages, loss weights and a count of all that is left out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

import msgspec

from agl.errors import DataError
from agl.resources import Resources
from agl.results import Group, RolloutResult
from agl.transitions import Row
from agl.untrained import why_untrained
from agl_verl.advantages import Estimate, Values
from agl_verl.weights import Weigh


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What fits VERL's batch."""

    prompt: int
    """Most tokens before the first sampled one (`data.max_prompt_length`)."""
    response: int
    """Most tokens from there on, whatever made them (`data.max_response_length`)."""
    temperature: float
    """At which the trainer computes log-probabilities (`rollout.temperature`)."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One row of VERL's batch."""

    group: int
    """Index of the task among those that were asked for."""
    rollout: int
    """Index among its siblings."""
    index: int
    """Index among the rows of the rollout."""
    prompt_ids: tuple[int, ...]
    """(P,) tokens before the first sampled one."""
    response_ids: tuple[int, ...]
    """(T,) the rest: what was sampled and what tools and other agents said in between."""
    mask: tuple[bool, ...]
    """(T,) true where a trained call sampled the token."""
    logprobs: tuple[float, ...]
    """(T,) as sampled; 0 outside the mask."""
    advantages: tuple[float, ...]
    """(T,) 0 outside the mask."""
    weight: float
    """Of each masked token in the step's loss."""
    reward: float
    """Of the whole rollout."""
    calls: int
    """Trained calls in the row."""
    versions: tuple[int, int]
    """Oldest and newest version of the weights that sampled it."""

    @property
    def tokens(self) -> int:
        """Trained tokens."""
        return sum(self.mask)


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one step learns from."""

    samples: tuple[Sample, ...]
    dropped: dict[str, int]
    """Rows that do not enter VERL's batch, counted by why. They keep their place in the loss weights' denominators."""
    rows: tuple[Row, ...]
    """(K,) all trained rows, those that were dropped among them."""
    advantages: tuple[tuple[float, ...], ...]
    """(K,) of (S,) per token."""
    weights: tuple[float, ...]
    """(K,) of each trained token."""


def make_batch(groups: Sequence[Group], estimate: Estimate, weigh: Weigh, limits: Limits, resources: Resources | None = None) -> Batch:
    """Rows of all rollouts that have a reward.

    Statistics are over whole groups, one value per rollout and role: the mean reward of the role's calls, which is the rollout's where no
    call has one of its own. What a call got beyond that mean, and its `step_advantage`, are added to its advantage.

    Raises:
        DataError: rollouts have rewards, yet no call of theirs can be trained; says why.
    """
    placed = [(g, i, row) for g, group in enumerate(groups) for i, result in enumerate(group.results) for row in result.rows()]
    if not placed and any(reward is not None for group in groups for reward in group.rewards):
        count = sum(len(group.results) for group in groups)
        raise DataError(f"no call of {count} rollouts can be trained: {why_untrained(groups, resources)}")
    by_role = _by_role(groups, estimate)
    tokens: Counter[str] = Counter()
    for _, _, row in placed:
        tokens[row.rollout_id] += sum(row.mask)
    weights = weigh(tokens) if tokens else {}
    advantages = [_of_tokens(row, by_role, g, i) for g, i, row in placed]
    samples, dropped, numbers = [], Counter[str](), Counter[str]()
    for (g, i, row), given in zip(placed, advantages, strict=True):
        if (why := _misfit(row, limits)) is not None:
            dropped[why] += 1
            continue
        reward = groups[g].results[i].reward
        samples.append(_sample(g, i, numbers[row.rollout_id], row, given, weights[row.rollout_id], reward or 0.0))
        numbers[row.rollout_id] += 1
    return Batch(
        samples=tuple(samples),
        dropped=dict(dropped),
        rows=tuple(row for _, _, row in placed),
        advantages=tuple(advantages),
        weights=tuple(weights[row.rollout_id] for _, _, row in placed),
    )


def unweighted(groups: Sequence[Group], limits: Limits) -> tuple[Sample, ...]:
    """The rows that fit, without advantages and weights: what VERL's queue has of them before a step takes them."""

    def no_advantage(values: Values, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.0] * len(group) for group in values]

    if not any(result.rows() for group in groups for result in group.results):
        return ()
    return make_batch(groups, no_advantage, lambda tokens: dict.fromkeys(tokens, 0.0), limits).samples


def _misfit(row: Row, limits: Limits) -> str | None:
    """Why a row cannot enter the batch: what does not fit is left out whole, never cut."""
    first = row.mask.index(True)
    if first > limits.prompt:
        return "prompt_too_long"
    if len(row.token_ids) - first > limits.response:
        return "response_too_long"
    if abs(row.temperature - limits.temperature) > 1e-6:
        return "other_temperature"
    if not all(call.version is not None and call.version.isdecimal() for call in row.transitions):
        return "other_version"
    return None


def _sample(group: int, rollout: int, index: int, row: Row, advantages: tuple[float, ...], weight: float, reward: float) -> Sample:
    first = row.mask.index(True)
    versions = [int(call.version or 0) for call in row.transitions]
    return Sample(
        group=group,
        rollout=rollout,
        index=index,
        prompt_ids=row.token_ids[:first],
        response_ids=row.token_ids[first:],
        mask=row.mask[first:],
        logprobs=row.logprobs[first:],
        advantages=advantages[first:],
        weight=weight,
        reward=reward,
        calls=len(row.transitions),
        versions=(min(versions), max(versions)),
    )


def validation_samples(results: Sequence[RolloutResult], n: int = 1) -> tuple[Sample, ...]:
    """One row for each rollout with a reward: its last call, which VERL shows, and the reward, which VERL averages. Nothing is learned from it.

    Args:
        results: of all tasks, those of one task after each other.
        n: rollouts of each task.
    """
    found = []
    for place, result in enumerate(results):
        if result.reward is None:
            continue
        shown = [call for call in result.transitions if call.prompt_ids and call.response_ids]
        prompt, response = (shown[-1].prompt_ids, shown[-1].response_ids) if shown else ((0,), (0,))
        zeros = (0.0,) * len(response)
        found.append(
            Sample(
                group=place // n,
                rollout=place % n,
                index=0,
                prompt_ids=prompt,
                response_ids=response,
                mask=(True,) * len(response),
                logprobs=zeros,
                advantages=zeros,
                weight=0.0,
                reward=result.reward,
                calls=len(result.transitions),
                versions=(0, 0),
            )
        )
    return tuple(found)


RoleValues = dict[str | None, list[list[tuple[float, float]]]]
"""For each role, by group and rollout, (value, advantage)."""


def _by_role(groups: Sequence[Group], estimate: Estimate) -> RoleValues:
    roles = {call.role for group in groups for result in group.results for call in result.transitions}
    found: RoleValues = {}
    for role in roles:
        # A group in which nobody plays the role has no value of it.
        playing = [any(call.role == role for result in group.results for call in result.transitions) for group in groups]
        values = [
            [_value(result, role) if plays else None for result in group.results] for group, plays in zip(groups, playing, strict=True)
        ]
        tokens = [[_tokens(result, role) for result in group.results] for group in groups]
        advantages = estimate(values, tokens)
        found[role] = [
            [(value or 0.0, advantage) for value, advantage in zip(*pair, strict=True)] for pair in zip(values, advantages, strict=True)
        ]
    return found


def _value(result: RolloutResult, role: str | None) -> float | None:
    if result.reward is None:
        return None
    own = [call.reward for call in result.transitions if call.role == role and call.trainable and call.reward is not None]
    return statistics.fmean(own) if own else result.reward


def _tokens(result: RolloutResult, role: str | None) -> int:
    return sum(len(call.response_ids) for call in result.transitions if call.role == role and call.trainable)


def _of_tokens(row: Row, by_role: RoleValues, group: int, rollout: int) -> tuple[float, ...]:
    """(S,) advantages of a row's tokens."""
    per_call = []
    for call in row.transitions:
        value, advantage = by_role[call.role][group][rollout]
        own = value if call.reward is None else call.reward
        per_call.append(advantage + (own - value) + call.step_advantage)
    return tuple(per_call[owner] if owner >= 0 else 0.0 for owner in row.owners)
