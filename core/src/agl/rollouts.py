"""Rollout and attempt: one request to run the agent on a task, and one try at it.

A final status stays final: a late report of an attempt that ended is refused by the store.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any

import msgspec

from agl.tasks import Mode, Task


class RolloutStatus(StrEnum):
    """Where a rollout is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """An attempt ended without an exception; its reward says how good it was."""
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptStatus(StrEnum):
    """Where an attempt is in its life."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its worker stopped sending heartbeats."""


class Failure(StrEnum):
    """Why an attempt did not succeed: decides whether it is retried, excluded or learned from."""

    AGENT = "agent"
    """The agent raised: data, kept in its group."""
    TIMEOUT = "timeout"
    """The agent ran into its own deadline: data, kept in its group."""
    INFRASTRUCTURE = "infrastructure"
    """The endpoint was down, the worker died: retried, then excluded."""
    REWARD = "reward"
    """No usable reward: excluded, and said loudly."""
    CANCELLED = "cancelled"
    """Stopped from outside: excluded."""
    TRUNCATED = "truncated"
    """An answer was cut at its token limit. A failure only where `failures` asks for it; else it is data like any other."""


RETRY, EXCLUDE, REWARD = "retry", "exclude", "reward"
POLICIES: dict[Failure, str | float] = {
    Failure.INFRASTRUCTURE: RETRY,
    Failure.AGENT: REWARD,
    Failure.TIMEOUT: REWARD,
    Failure.CANCELLED: EXCLUDE,
    Failure.TRUNCATED: REWARD,
    Failure.REWARD: EXCLUDE,
}
"""What is done with a failed attempt unless the Trainer's `failures` says otherwise; see `Rollout.policy`."""


FINAL_ROLLOUT = frozenset({RolloutStatus.SUCCEEDED, RolloutStatus.FAILED, RolloutStatus.CANCELLED})
FINAL_ATTEMPT = frozenset(AttemptStatus) - {AttemptStatus.RUNNING}


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a rollout, by one worker."""

    attempt_id: str
    """Unguessable: it is part of the attempt's URL."""
    rollout_id: str
    number: int
    """From 1."""
    worker_id: str
    status: AttemptStatus = AttemptStatus.RUNNING
    started_at: float = 0.0
    """Unix time in seconds, as all times of the store."""
    heartbeat_at: float = 0.0
    ended_at: float | None = None
    failure: Failure | None = None
    error: str | None = None
    """Traceback of what the agent raised."""
    output: Any = None
    """What the agent returned, as JSON (its `repr` where JSON cannot hold it)."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One request to run the agent on one task under one version of the resources."""

    rollout_id: str
    run_id: str
    task: Task
    group_id: str
    """Siblings on the same task in the same step share it."""
    sample: int = 0
    """Index within the group."""
    step: int = 0
    """Step of the run that asked for it."""
    resources_version: int = 0
    seed: int = 0
    """Derived from the run's seed, the step, the task and the sample: the same when a run is repeated."""
    timeout: float | None = None
    """Seconds one attempt may take."""
    max_attempts: int = 1
    status: RolloutStatus = RolloutStatus.QUEUED
    created_at: float = 0.0
    ended_at: float | None = None
    attempt: Attempt | None = None
    """The latest attempt."""
    reward_weights: dict[str, float] | None = None
    """Weights, by name, of the rewards that the final one is made of; None when the reward named `reward` is it."""
    policies: dict[str, str | float] | None = None
    """What is done with a failed attempt, by class, where it differs from `POLICIES`."""
    reward_timeout: float | None = None
    """Seconds after its end for which a missing reward is waited for; None when it must be there at the end."""

    @property
    def input(self) -> dict[str, Any]:
        """The task as the dataset has it."""
        return self.task.data

    @property
    def mode(self) -> Mode:
        """What the rollout is for: the mode of its task."""
        return self.task.mode

    def policy(self, failure: Failure) -> str | float:
        """What is done with an attempt that failed so.

        Returns:
            `retry` (again while attempts are left, then excluded), `exclude` (out of its group), `reward` (learned from, with its
            own reward or else the Trainer's `failure_reward`), or a number: its reward, whatever the agent gave itself.
        """
        return (self.policies or {}).get(failure, POLICIES[failure])


def new_id(prefix: str) -> str:
    """A fresh unguessable id, such as `ro-` and 24 hexadecimal digits (96 random bits)."""
    return f"{prefix}-{secrets.token_hex(12)}"
