"""Results: finished rollouts as an algorithm sees them, and their groups."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from agl.rewards import COMBINED, FAILURE, FINAL, NoReward, Reward
from agl.rollouts import EXCLUDE, RETRY, AttemptStatus, Failure, Rollout
from agl.spans import Span, SpanKind, SpanStatus, new_span_id, new_trace_id
from agl.tasks import Task
from agl.transitions import Row, Transition, rows_of


class RolloutResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished rollout: its last attempt with spans, rewards and transitions."""

    rollout: Rollout
    spans: tuple[Span, ...] = ()
    """In order of their start."""
    rewards: tuple[Reward, ...] = ()
    """In order of time."""
    transitions: tuple[Transition, ...] = ()
    """In order of the calls, credit assigned."""

    @property
    def task(self) -> Task:
        """The task that it ran on."""
        return self.rollout.task

    @property
    def output(self) -> Any:
        """What the agent returned, as JSON."""
        return self.rollout.attempt.output if self.rollout.attempt else None

    @property
    def failure(self) -> Failure | None:
        """Why the attempt did not succeed; None when it did, and when the reward that it lacked came late."""
        found = self.rollout.attempt.failure if self.rollout.attempt else Failure.CANCELLED
        return None if found == Failure.REWARD and self._finals(late=True) else found

    @property
    def policy(self) -> str | float | None:
        """What is done with its failure (`Rollout.policy`); None when it did not fail."""
        return None if self.failure is None else self.rollout.policy(self.failure)

    @property
    def succeeded(self) -> bool:
        """Whether the agent ended without an exception."""
        return self.rollout.attempt is not None and self.rollout.attempt.status == AttemptStatus.SUCCEEDED

    @property
    def reward(self) -> float | None:
        """The reward of the whole rollout: the last one named `reward`; None when it is missing.

        Where the rollout has `reward_weights`, single values are parts of it: then only their weighted sum is the reward.
        An agent that failed by itself (exception, own timeout) has the Trainer's `failure_reward`: failing is its
        behaviour. A failure of the infrastructure never becomes a number.
        """
        if self.rollout.attempt is not None and self.policy in (EXCLUDE, RETRY):
            return None
        final = self._finals()
        return final[-1] if final else None

    def _finals(self, *, late: bool = False) -> list[float]:
        """Values of the rewards of the whole rollout, as they came; with `late` those that came after the attempt's end."""
        combining = self.rollout.reward_weights is not None
        ended = (self.rollout.attempt.ended_at or 0.0) if late and self.rollout.attempt else 0.0
        return [
            reward.value
            for reward in self.rewards
            if reward.name == FINAL
            and reward.role is None
            and reward.span_id is None
            and (not combining or reward.source in (COMBINED, FAILURE))
            and (not late or reward.created_at > ended)
        ]

    def rows(self) -> list[Row]:
        """Rows for a policy loss; none when the rollout is excluded."""
        return rows_of(self.transitions) if self.reward is not None else []


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The siblings of one task in one step."""

    task: Task
    results: tuple[RolloutResult, ...]
    """In order of their sample index, excluded ones among them."""

    @property
    def rewards(self) -> list[float | None]:
        """(n,) None for an excluded rollout."""
        return [result.reward for result in self.results]

    def has_spread(self) -> bool:
        """Whether two of its rollouts differ in reward, so that there is something to learn."""
        values = {value for value in self.rewards if value is not None}
        return len(values) > 1

    def best(self) -> RolloutResult | None:
        """The rollout with the highest reward; the first of equals."""
        scored = [result for result in self.results if result.reward is not None]
        return max(scored, key=lambda result: result.reward or 0.0, default=None)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found."""

    results: tuple[RolloutResult, ...]
    mode: str
    step: int
    resources_version: int

    @property
    def mean(self) -> float | None:
        """Mean reward over the rollouts that have one."""
        values = [result.reward for result in self.results if result.reward is not None]
        return sum(values) / len(values) if values else None

    @property
    def excluded(self) -> Counter[str]:
        """Rollouts without a reward, counted by why."""
        return Counter(str(result.failure or "no reward") for result in self.results if result.reward is None)

    def by(self, field: str) -> dict[str, tuple[float, int]]:
        """Mean reward and number of rollouts per value of a field of the task."""
        values: dict[str, list[float]] = {}
        for result in self.results:
            if result.reward is not None:
                values.setdefault(str(result.task.data.get(field)), []).append(result.reward)
        return {key: (sum(found) / len(found), len(found)) for key, found in sorted(values.items())}


def missing_span(result: RolloutResult, missing: NoReward) -> Span:
    """The record of a judgement that could not be made: a span below the attempt's root, with the reason as its error."""
    assert result.rollout.attempt is not None
    root, now = next((span for span in result.spans if span.parent_id is None), None), time.time()
    return Span(
        span_id=new_span_id(),
        trace_id=root.trace_id if root else new_trace_id(),
        parent_id=root.span_id if root else None,
        rollout_id=result.rollout.rollout_id,
        attempt_id=result.rollout.attempt.attempt_id,
        name=f"no reward {missing.name}",
        kind=SpanKind.REWARD,
        started_at=now,
        ended_at=now,
        status=SpanStatus.ERROR,
        error=missing.reason,
        attributes={"agl.reward.name": missing.name, "agl.reward.source": missing.source},
    )


def failures_of(results: Sequence[RolloutResult]) -> Counter[str]:
    """Failed rollouts, counted by class."""
    return Counter(str(result.failure) for result in results if result.failure is not None)
