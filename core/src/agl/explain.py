"""Explain: every call of a rollout, and what was learned from it or why nothing was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agl.credit import Credit
from agl.learned import Learned, directory_of, read_learned
from agl.plugins import Plugins
from agl.results import Group, RolloutResult
from agl.rewards import Reward
from agl.roles import Roles
from agl.rollouts import FINAL_ROLLOUT, Failure
from agl.store.base import RunRecord, Store
from agl.transitions import Transition, parents_of, transitions_of


class ExplainedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled answer, in the order of the calls."""

    number: int
    """From 1."""
    span_id: str
    choice: int
    role: str | None
    parent: int | None
    """Number of the call that it goes on from."""
    mismatch: str | None
    prompt_tokens: int
    sampled_tokens: int
    finish_reason: str | None
    version: str | None
    reward: float | None
    """What the credit gave it."""
    advantage: float | None
    """In the policy loss; None where it was in none."""
    weight: float | None
    """Of each of its tokens in the step's loss."""
    trained: bool
    why: str
    """Why it was trained, or not."""


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout."""

    rollout_id: str
    run_id: str
    step: int
    """From 1, as in the metrics."""
    mode: str
    task_id: str
    group_id: str
    group_rewards: list[float | None]
    """Of all siblings, in order."""
    status: str
    attempt: int
    max_attempts: int
    failure: str | None
    policy: str | float | None
    """What is done with a failure of this class."""
    error: str | None
    """Its last line."""
    reward: float | None
    rewards: list[Reward]
    late: list[int]
    """Indices of the rewards that came after the rollout was learned from."""
    calls: list[ExplainedCall]
    mismatches: dict[str, int]
    rows: int
    """Rows of a policy loss that the calls make."""
    notes: list[str]


async def explain(store: Store, rollout_id: str, plugins: Plugins | None = None) -> Explained:
    """Read a rollout and say what became of each of its calls.

    Args:
        plugins: those that assign credit where the run's configuration names none; the installed ones unless given.

    Raises:
        NotFoundError: no such rollout.
    """
    (found,) = await store.results([rollout_id])
    rollout = found.rollout
    record = await store.run(rollout.run_id)
    ids = await store.find(rollout.run_id, mode=str(rollout.mode), step=rollout.step)
    siblings = [item for item in await store.results(ids) if item.rollout.group_id == rollout.group_id]
    result = _with_credit(siblings or [found], record, plugins)[rollout_id]
    learned = read_learned(directory_of(record, store), rollout.step, rollout_id)
    late = [index for index, reward in enumerate(result.rewards) if learned is not None and reward.created_at > learned.at]
    attempt = rollout.attempt
    return Explained(
        rollout_id=rollout_id,
        run_id=rollout.run_id,
        step=rollout.step + 1,
        mode=str(rollout.mode),
        task_id=rollout.task.task_id,
        group_id=rollout.group_id,
        group_rewards=[item.reward for item in siblings],
        status=str(rollout.status),
        attempt=attempt.number if attempt else 0,
        max_attempts=rollout.max_attempts,
        failure=result.failure and str(result.failure) if attempt else None,
        policy=result.policy if attempt else None,
        error=attempt.error.strip().splitlines()[-1] if attempt and attempt.error else None,
        reward=result.reward,
        rewards=list(result.rewards),
        late=late,
        calls=_calls(result, learned, _left_out(result, siblings, learned)),
        mismatches=dict(Counter(str(item.mismatch) for item in result.transitions if item.mismatch)),
        rows=len(result.rows()),
        notes=_notes(result, learned, late),
    )


def _with_credit(siblings: Sequence[RolloutResult], record: RunRecord, plugins: Plugins | None) -> dict[str, RolloutResult]:
    roles = Roles(record.config.get("agent_match"), record.config.get("roles"))
    results = [msgspec.structs.replace(item, transitions=tuple(transitions_of(item.spans, roles.why_not))) for item in siblings]
    named: Mapping[str, Any] | None = record.config.get("credit")
    if named is not None:
        (group,) = msgspec.convert(named, Credit).assign([Group(task=results[0].task, results=tuple(results))])
        results = list(group.results)
    else:
        assign = (plugins or Plugins()).assign_credit
        results = [msgspec.structs.replace(item, transitions=assign(item, item.transitions)) for item in results]
    return {item.rollout.rollout_id: item for item in results}


def _calls(result: RolloutResult, learned: Learned | None, left_out: str | None) -> list[ExplainedCall]:
    in_loss = {(call.span_id, call.choice): call for call in (learned.calls if learned else [])}
    found: list[ExplainedCall] = []
    for index, (item, parent) in enumerate(zip(result.transitions, parents_of(result.transitions), strict=True)):
        call = in_loss.get((item.span_id, item.choice))
        found.append(
            ExplainedCall(
                number=index + 1,
                span_id=item.span_id,
                choice=item.choice,
                role=item.role,
                parent=None if parent is None else parent + 1,
                mismatch=item.mismatch and str(item.mismatch),
                prompt_tokens=len(item.prompt_ids),
                sampled_tokens=len(item.response_ids),
                finish_reason=item.finish_reason,
                version=item.version,
                reward=call.reward if call else item.reward,
                advantage=call.advantage if call else None,
                weight=call.weight if call else None,
                trained=call is not None and call.advantage != 0.0,
                why=_why(item, call is not None, call.advantage if call else 0.0, left_out),
            )
        )
    return found


def _why(item: Transition, in_loss: bool, advantage: float, left_out: str | None) -> str:
    if in_loss:
        return "trained" if advantage else "in the loss with advantage 0: it did neither better nor worse than what it is compared with"
    return item.untrained or left_out or "not in the loss"


def _left_out(result: RolloutResult, siblings: Sequence[RolloutResult], learned: Learned | None) -> str | None:
    """Why no call of the rollout is in a policy loss, whatever the calls are like; None where that is not so."""
    if learned is not None:
        return None
    if result.rollout.status not in FINAL_ROLLOUT:
        return f"the rollout is {result.rollout.status}"
    if result.reward is None:
        kept = f"policy `{result.policy}`" if result.policy is not None else "no reward named `reward`"
        return f"the rollout is excluded ({result.failure or 'no reward'}: {kept})"
    if str(result.rollout.mode) != "train":
        return f"nothing is learned from `{result.rollout.mode}` rollouts"
    return "the algorithm kept no record of its step: it has none, it has not learned from it yet, or it was stopped"


def _notes(result: RolloutResult, learned: Learned | None, late: Sequence[int]) -> list[str]:
    notes: list[str] = []
    if not result.transitions:
        notes.append("the agent made no LLM call through its attempt's endpoint")
    if result.failure == Failure.INFRASTRUCTURE:
        notes.append("the endpoint or the worker failed: that says nothing of the agent")
    if late:
        notes.append(f"{len(late)} rewards came after the rollout was learned from: they are kept, and were not used")
    if learned is not None and len({call.weight for call in learned.calls}) > 1:
        notes.append("its rows have different weights")
    return notes
