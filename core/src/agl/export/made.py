"""Rollouts made of data that knows of none: examples for fine-tuning, traces of other systems."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from agl.export.calls import text
from agl.results import RolloutResult
from agl.rewards import Reward, make_reward
from agl.rollouts import Attempt, AttemptStatus, Rollout, RolloutStatus, new_id
from agl.spans import LLMCall, Span, SpanKind, new_span_id, new_trace_id
from agl.tasks import Mode, Task
from agl.transitions import UNTRAINED


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as a file tells it."""

    calls: Sequence[LLMCall]
    task: dict[str, Any]
    task_id: str | None = None
    """None for a hash of the task."""
    untrained: Sequence[str | None] = ()
    """Why a call must not be trained, for each of them."""
    rewards: Sequence[tuple[str, float, str]] = ()
    """Name, value and source of each."""


def made_rollout(given: Given, mode: Mode, group: int, sample: int) -> RolloutResult:
    """A rollout that has ended well, with fresh ids, at the time of now; its run is not known yet."""
    now, rollout_id, attempt_id, trace_id = time.time(), new_id("ro"), new_id("at"), new_trace_id()
    attempt = Attempt(
        attempt_id=attempt_id,
        rollout_id=rollout_id,
        number=1,
        worker_id="import",
        status=AttemptStatus.SUCCEEDED,
        started_at=now,
        heartbeat_at=now,
        ended_at=now,
    )
    task_id = given.task_id or hashlib.sha256(text(given.task).encode()).hexdigest()[:16]
    rollout = Rollout(
        rollout_id=rollout_id,
        run_id="",
        task=Task(task_id=task_id, data=given.task, mode=mode),
        group_id=f"import-{group}",
        sample=sample,
        status=RolloutStatus.SUCCEEDED,
        created_at=now,
        ended_at=now,
        attempt=attempt,
    )
    reasons = [*given.untrained, *[None] * (len(given.calls) - len(given.untrained))]
    spans = [
        Span(
            span_id=new_span_id(),
            trace_id=trace_id,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            name=f"chat {call.request.get('model')}",
            kind=SpanKind.LLM,
            started_at=now,
            ended_at=now,
            attributes={"agl.call": msgspec.to_builtins(call)} | ({UNTRAINED: [why]} if why else {}),
        )
        for call, why in zip(given.calls, reasons, strict=True)
    ]
    return RolloutResult(rollout=rollout, spans=tuple(spans), rewards=tuple(_reward(*reward) for reward in given.rewards))


def _reward(name: str, value: float, source: str) -> Reward:
    return make_reward(value, name=name, source=source)
