"""What is exported: the rollouts of a run that have ended, group by group, as many at a time as memory holds whatever the run's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from itertools import groupby

import msgspec

from agl.errors import DataError
from agl.plugins import Plugins
from agl.results import RolloutResult
from agl.rewards import LATE
from agl.roles import Roles
from agl.rollouts import FINAL_ROLLOUT
from agl.store.base import RunRecord, Store
from agl.transitions import transitions_of

AT_ONCE = 16
"""Rollouts that are read together; a group is held whole."""

Group = list[RolloutResult]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which rollouts are exported."""

    mode: str | None = None
    """`train`, `val` or `test`; None for all."""
    best: bool = False
    """Only the rollout with the highest reward of each group, the first of equals."""
    min_reward: float | None = None
    """Only rollouts with at least this final reward."""
    late: bool = False
    """Only rollouts with a reward that came when their step was over."""

    def why_not(self, result: RolloutResult) -> str | None:
        """Why a rollout is left out, whatever its siblings are; None when it is not."""
        if result.rollout.status not in FINAL_ROLLOUT:
            return "not ended"
        if self.late and not any(reward.details.get(LATE) for reward in result.rewards):
            return "without a late reward"
        if (self.best or self.min_reward is not None) and result.reward is None:
            return "without a reward"
        return f"below {self.min_reward:g}" if self.min_reward is not None and (result.reward or 0.0) < self.min_reward else None


class Source:
    """The chosen rollouts of a run, with their transitions.

    Args:
        roles: of the run, to know which calls are learned from.
        plugins: one of them assigns credit.
    """

    def __init__(self, store: Store, record: RunRecord, choice: Choice, plugins: Plugins) -> None:
        self.record = record
        self.roles = Roles(record.config.get("agent_match"), record.config.get("roles"))
        self.read = 0
        """Rollouts read so far."""
        self.left_out: Counter[str] = Counter()
        """Rollouts that were not chosen, by reason."""
        self._store, self._choice, self._plugins = store, choice, plugins

    async def ids(self) -> list[str]:
        """Ids of the rollouts to read."""
        return await self._store.find(self.record.run_id, mode=self._choice.mode)

    async def groups(self, ids: Sequence[str]) -> AsyncGenerator[Group]:
        """The chosen rollouts, group by group; groups without one are passed over.

        Raises:
            DataError: the rollouts of a group do not stand together in the store.
        """
        seen: set[str] = set()
        async for group in _grouped(self._results(ids)):
            if group[0].rollout.group_id in seen:
                raise DataError(f"group `{group[0].rollout.group_id}` of run `{self.record.run_id}` was not queued in one piece")
            seen.add(group[0].rollout.group_id)
            if chosen := self._chosen(group):
                yield [self._with_transitions(result) for result in chosen]

    async def _results(self, ids: Sequence[str]) -> AsyncGenerator[Group]:
        for start in range(0, len(ids), AT_ONCE):
            found = await self._store.results(ids[start : start + AT_ONCE])
            self.read += len(found)
            yield found

    def _chosen(self, group: Iterable[RolloutResult]) -> Group:
        kept: Group = []
        for result in group:
            why_not = self._choice.why_not(result)
            if why_not is None:
                kept.append(result)
            else:
                self.left_out[why_not] += 1
        if not self._choice.best or not kept:
            return kept
        self.left_out["not the best of their group"] += len(kept) - 1
        return [max(kept, key=lambda result: result.reward or 0.0)]

    def _with_transitions(self, result: RolloutResult) -> RolloutResult:
        transitions = transitions_of(result.spans, self.roles.why_not)
        return msgspec.structs.replace(result, transitions=self._plugins.assign_credit(result, transitions))


async def _grouped(portions: AsyncIterator[Group]) -> AsyncGenerator[Group]:
    """Neighbours of one group together, over the borders of portions."""
    open_: Group = []
    async for portion in portions:
        *ended, open_ = [list(group) for _, group in groupby(open_ + portion, key=lambda result: result.rollout.group_id)]
        for group in ended:
            yield group
    if open_:
        yield open_
