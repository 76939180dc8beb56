"""Feedback: rewards that come after a rollout's end, from people or from systems that take their time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agl.errors import NotFoundError, RewardError
from agl.learned import directory_of, has_learned
from agl.results import RolloutResult
from agl.rewards import FINAL, LATE, RESERVED, Reward, make_reward
from agl.rollouts import Rollout
from agl.spans import SpanKind
from agl.store.base import Store
from agl.store.opening import StoreSpec, opened

FEEDBACK = "feedback"
LOOK_SECONDS = 1.0
"""Between looks for rewards; more when they take long."""


def add_reward(
    store: StoreSpec,
    rollout_id: str,
    value: Any,
    *,
    name: str = FINAL,
    role: str | None = None,
    call: str | None = None,
    source: str = FEEDBACK,
    details: Mapping[str, Any] | None = None,
) -> Reward:
    """Give a rollout a reward, also one that has ended.

    It counts in the step that asked for the rollout as long as that one waits for it (`Trainer(reward_timeout=…)`) or for other rollouts;
    one that comes later is kept in the store, beside what was learned from, with `late` in its details. The newest of one name counts.

    Args:
        store: path, URL or driver of the store, or the store itself.
        rollout_id: what it judges.
        value: one finite number.
        name: `reward` is the reward of the whole rollout.
        role: that it judges; None for all.
        call: span id of the LLM call that it judges, or its beginning; None for the whole rollout.
        source: who judged.
        details: what else there is to say, as JSON.

    Raises:
        RewardError: not one finite number, no such call or role, or a source that is AGL's own.
        NotFoundError: no such rollout.
    """
    with opened(store) as found, ThreadPoolExecutor(1) as thread:  # in a thread: this one may have an event loop that runs
        adding = _add(found, rollout_id, value, name=name, role=role, call=call, source=source, details=details)
        return thread.submit(asyncio.run, adding).result()


async def _add(store: Store, rollout_id: str, value: Any, *, role: str | None, call: str | None, **given: Any) -> Reward:
    if given["source"] in RESERVED:
        raise RewardError(f"the source `{given['source']}` is AGL's own; name another one")
    if role is not None and call is not None:
        raise RewardError(f"a reward judges a role (`{role}`) or a call (`{call}`), not both")
    (result,) = await store.results([rollout_id])
    attempt = result.rollout.attempt
    if attempt is None:
        raise NotFoundError(f"rollout `{rollout_id}` has no attempt yet, so that there is nothing to judge; wait until it runs")
    roles = sorted({span.role for span in result.spans if span.role is not None})
    if role is not None and role not in roles:
        raise RewardError(f"rollout `{rollout_id}` has no role `{role}`; it has {roles or 'none'}")
    if await _is_over(store, result.rollout):
        given["details"] = {**(given["details"] or {}), LATE: True}
    reward = make_reward(value, role=role, span_id=None if call is None else _call(result, call), **given)
    await store.add_rewards(attempt.attempt_id, [reward])
    return reward


async def _is_over(store: Store, rollout: Rollout) -> bool:
    """Whether nothing will learn from a rollout any more: its run has ended, or its step has been learned from."""
    record = await store.run(rollout.run_id)
    return record.status != "running" or has_learned(directory_of(record, store), rollout.step)


def _call(result: RolloutResult, beginning: str) -> str:
    calls = [span.span_id for span in result.spans if span.kind == SpanKind.LLM]
    fits = [span_id for span_id in calls if span_id.startswith(beginning)]
    if len(fits) != 1:
        what = "several calls" if fits else "no call"
        raise RewardError(f"rollout `{result.rollout.rollout_id}` has {what} `{beginning}…`; its calls are {fits or calls}")
    return fits[0]


async def late_rewards(
    store: Store, results: list[RolloutResult], lacks: Callable[[RolloutResult], bool], say: Callable[[str], None]
) -> list[RolloutResult]:
    """The results again, with the rewards that came in time.

    Args:
        results: of rollouts that have ended, each with the `reward_timeout` that it waits.
        lacks: whether a result still lacks a reward.
        say: told once that it waits, and for what.
    """
    found, pause = list(results), LOOK_SECONDS
    waiting = _waiting(found, lacks)
    if waiting:
        say(f"  {len(waiting)} rollouts wait for their reward; give it with `agl reward {found[waiting[0]].rollout.rollout_id} VALUE`")
    while waiting:
        left = max(_deadline(found[index]) for index in waiting) - time.time()
        await asyncio.sleep(max(0.0, min(pause, left)))
        pause = min(1.2 * pause, 10 * LOOK_SECONDS)
        newest = await store.results([found[index].rollout.rollout_id for index in waiting])
        for index, result in zip(waiting, newest, strict=True):
            found[index] = result
        waiting = _waiting(found, lacks)
    return found


def _waiting(results: Sequence[RolloutResult], lacks: Callable[[RolloutResult], bool]) -> list[int]:
    now = time.time()
    return [index for index, result in enumerate(results) if lacks(result) and _deadline(result) > now]


def _deadline(result: RolloutResult) -> float:
    attempt = result.rollout.attempt
    return ((attempt.ended_at if attempt else None) or 0.0) + (result.rollout.reward_timeout or 0.0)
