"""Rows of the standard transition put together again to the rollouts that they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.errors import DataError
from agl.export.calls import call_from
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout, RolloutStatus
from agl.spans import Choice, LLMCall, Span, SpanKind, SpanStatus, new_trace_id
from agl.tasks import Mode, Task
from agl.transitions import UNTRAINED

Row = Mapping[str, Any]
_ENDED = {AttemptStatus.SUCCEEDED: RolloutStatus.SUCCEEDED, AttemptStatus.CANCELLED: RolloutStatus.CANCELLED}


def rollout_from(rows: Sequence[Row]) -> RolloutResult:
    """The rollout of which these are all rows.

    Raises:
        DataError: they contradict each other, or hold what cannot be.
    """
    first = rows[0]
    try:
        attempt = _attempt(rows)
        rollout = Rollout(
            rollout_id=first["rollout_id"],
            run_id=first["run_id"],
            task=Task(task_id=first["task_id"], data=_json(first["task"], dict[str, Any]), mode=Mode(first["mode"])),
            group_id=first["group_id"],
            sample=first["sample"],
            step=first["step"],
            resources_version=first["resources_version"],
            status=_ENDED.get(attempt.status, RolloutStatus.FAILED),
            created_at=attempt.started_at,
            ended_at=attempt.ended_at,
            max_attempts=attempt.number,
            attempt=attempt,
            reward_weights=_json(first["reward_weights"], dict[str, float] | None),
        )
        calls: dict[str, list[Row]] = {}
        for row in rows:
            calls.setdefault(row["span_id"], []).append(row)
        trace_id = new_trace_id()
        spans = [_span(choices, trace_id) for choices in calls.values()]
        return RolloutResult(rollout=rollout, spans=tuple(spans), rewards=_rewards(rows))
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise DataError(f"rollout `{first['rollout_id']}` cannot be read: {error}") from error


def _attempt(rows: Sequence[Row]) -> Attempt:
    first, started, ended = rows[0], min(row["started_at"] for row in rows), max(row["ended_at"] for row in rows)
    return Attempt(
        attempt_id=first["attempt_id"],
        rollout_id=first["rollout_id"],
        number=first["attempt"],
        worker_id="import",
        status=AttemptStatus(first["status"]),
        started_at=started,
        heartbeat_at=ended,
        ended_at=ended,
        failure=None if first["failure"] is None else Failure(first["failure"]),
        output=_json(first["output"], Any),
    )


def _span(rows: Sequence[Row], trace_id: str) -> Span:
    """The call of which these are the answers."""
    first = rows[0]
    rows = sorted(rows, key=lambda row: row["choice"])
    if [row["choice"] for row in rows] != list(range(len(rows))):
        raise ValueError(f"call `{first['span_id']}` has the answers {[row['choice'] for row in rows]}, not each from 0 on once")
    call = _call(rows)
    reasons = [row["untrained"] for row in rows]
    return Span(
        span_id=first["span_id"],
        trace_id=trace_id,
        rollout_id=first["rollout_id"],
        attempt_id=first["attempt_id"],
        name=f"chat {call.request.get('model')}",
        kind=SpanKind.LLM,
        started_at=first["started_at"],
        ended_at=first["ended_at"],
        role=first["role"],
        status=SpanStatus.OK if first["error"] is None else SpanStatus.ERROR,
        error=first["error"],
        attributes={"agl.call_id": first["call_id"], UNTRAINED: reasons, "agl.call": msgspec.to_builtins(call)},
    )


def _call(rows: Sequence[Row]) -> LLMCall:
    first = rows[0]
    request = {name: value for name in ("messages", "tools") if (value := _json(first[name], list[dict[str, Any]] | None)) is not None}
    return call_from(
        {**_json(first["parameters"], dict[str, Any]), **request},
        [_json(row["answer"], dict[str, Any] | None) for row in rows],
        [Choice(response_ids=row["response_ids"], logprobs=row["logprobs"], finish_reason=row["finish_reason"]) for row in rows],
        failed=first["error"] is not None,
        prompt_ids=first["prompt_ids"],
        version=first["version"],
        overridden=_json(first["overridden"], dict[str, Any]),
        http_status=first["http_status"],
        retry_of=first["retry_of"],
        dialect=first["dialect"],
    )


def _rewards(rows: Sequence[Row]) -> tuple[Reward, ...]:
    """Each reward once, in the order they came."""
    found = {given["index"]: given for row in rows for given in row["rewards"]}
    return tuple(
        Reward(**{name: found[index][name] for name in _REWARD}, details=_json(found[index]["details"], dict[str, Any]))
        for index in sorted(found)
    )


_REWARD = ("name", "value", "source", "span_id", "role", "created_at")


def _json(text: str | None, type_: Any) -> Any:
    """The value of a JSON column; a null is None."""
    return msgspec.json.decode(b"null" if text is None else text, type=type_)
