"""The rows of the standard transition that a rollout gives: one for each answer of each LLM call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agl.export.calls import answer_of, messages_of, parameters_of, text, text_or_none, tools_of
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt
from agl.spans import LLMCall, Span, SpanKind
from agl.transitions import Transition, call_of

Row = dict[str, Any]


def table_rows(result: RolloutResult) -> list[Row]:
    """The rows of a rollout whose transitions are made, in the order of its calls. Lists and texts as in `schema.FIELDS`."""
    attempt = result.rollout.attempt
    if attempt is None:
        return []
    calls = {span.span_id: (span, call) for span in result.spans if span.kind == SpanKind.LLM and (call := call_of(span)) is not None}
    numbers = {span_id: number for number, span_id in enumerate(dict.fromkeys(item.span_id for item in result.transitions))}
    shared = _of_rollout(result, attempt)
    rewards = _Rewards(result.rewards, calls, {item.role for item in result.transitions})
    return [
        {
            **shared,
            "call": numbers[item.span_id],
            **_of_transition(item),
            **_of_call(*calls[item.span_id], item.choice),
            "rewards": rewards.of(item),
        }
        for item in result.transitions
    ]


def _of_rollout(result: RolloutResult, attempt: Attempt) -> Row:
    rollout = result.rollout
    return {
        "run_id": rollout.run_id,
        "rollout_id": rollout.rollout_id,
        "attempt_id": attempt.attempt_id,
        "attempt": attempt.number,
        "group_id": rollout.group_id,
        "sample": rollout.sample,
        "task_id": rollout.task.task_id,
        "task": text(rollout.task.data),
        "mode": str(rollout.mode),
        "step": rollout.step,
        "resources_version": rollout.resources_version,
        "status": str(attempt.status),
        "failure": None if attempt.failure is None else str(attempt.failure),
        "output": text_or_none(attempt.output),
        "reward_weights": text_or_none(rollout.reward_weights),
        "rollout_reward": result.reward,
    }


def _of_transition(item: Transition) -> Row:
    mismatch = None if item.mismatch is None else str(item.mismatch)
    return {name: getattr(item, name) for name in _TRANSITION} | {"mismatch": mismatch}


def _of_call(span: Span, call: LLMCall, index: int) -> Row:
    choice = call.choices[index] if index < len(call.choices) else None
    return {
        "prompt_ids": call.prompt_ids,
        "response_ids": choice.response_ids if choice else None,
        "logprobs": choice.logprobs if choice else None,
        "dialect": call.dialect,
        "messages": text_or_none(messages_of(call)),
        "tools": text_or_none(tools_of(call)),
        "answer": text_or_none(answer_of(call, index)),
        "parameters": text(parameters_of(call)),
        "overridden": text(call.overridden),
        "error": span.error,
        "http_status": call.http_status,
        "call_id": span.attributes.get("agl.call_id"),
        "retry_of": call.retry_of,
        "started_at": span.started_at,
        "ended_at": span.ended_at,
    }


class _Rewards:
    """The rewards of an attempt, told apart by whom they judge."""

    def __init__(self, rewards: Sequence[Reward], calls: Any, roles: set[str | None]) -> None:
        self._rewards, self._calls, self._roles = list(enumerate(rewards)), calls, roles

    def of(self, item: Transition) -> list[Row]:
        """All but those of another call or of another role that has calls: so each reward is in some row."""
        return [
            {"index": index, **{name: getattr(reward, name) for name in _REWARD}, "details": text(reward.details)}
            for index, reward in self._rewards
            if (reward.span_id not in self._calls or reward.span_id == item.span_id)
            and (reward.role is None or reward.role == item.role or reward.role not in self._roles)
        ]


_TRANSITION = ("span_id", "choice", "role", "parent", "version", "temperature", "finish_reason", "reward", "step_advantage", "untrained")
_REWARD = ("name", "value", "source", "span_id", "role", "created_at")
