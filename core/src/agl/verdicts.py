"""Verdicts: what is decided when all siblings of a group have ended: rewards by comparison, and the final rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from agl.plugins import Plugins
from agl.results import Group, RolloutResult, missing_span
from agl.rewards import Judgement, NoReward, Reward
from agl.store.base import Store
from agl.weights import Weights


class Verdicts:
    """Judges the finished rollouts of one run, and keeps in the store what it finds."""

    def __init__(self, store: Store, plugins: Plugins, weights: Weights) -> None:
        self.weights = weights
        self._store, self._plugins = store, plugins

    async def reach(self, groups: Sequence[Group]) -> tuple[list[RolloutResult], dict[str, str]]:
        """Judge whole groups.

        Returns:
            The results of all groups, in order, with their late rewards; and by rollout id why one has no final reward.

        Raises:
            PluginError: a judge broke.
        """
        results = [result for group in groups for result in group.results]
        if self._plugins.compares():
            given = await self._compared(groups)
            results = await self._keep(results, [given.get(result.rollout.rollout_id, []) for result in results])
        if not self.weights.active:
            return results, {}
        finals = [[final] if isinstance(final, NoReward) else final for final in self.weights.combine(results)]
        missing = {
            result.rollout.rollout_id: item.reason
            for result, final in zip(results, finals, strict=True)
            for item in final
            if isinstance(item, NoReward)
        }
        return await self._keep(results, finals), missing

    async def _compared(self, groups: Sequence[Group]) -> dict[str, list[Judgement]]:
        judging = [asyncio.ensure_future(self._plugins.group_rewards(group)) for group in groups]
        try:
            return {rollout_id: judged for found in await asyncio.gather(*judging) for rollout_id, judged in found.items()}
        finally:  # one that broke, or a run that is stopped, ends the others
            for task in judging:
                task.cancel()
            await asyncio.gather(*judging, return_exceptions=True)

    def uncounted(self, results: Sequence[RolloutResult]) -> list[str]:
        """Names of rewards that the judges gave and that no weight counts; each is told once."""
        return self.weights.uncounted(results) if self.weights.active else []

    async def _keep(self, results: Sequence[RolloutResult], judged: Sequence[Sequence[Judgement]]) -> list[RolloutResult]:
        """The results with these judgements, which are in the store by then."""
        return list(await asyncio.gather(*map(self._add, results, judged)))

    async def _add(self, result: RolloutResult, judged: Sequence[Judgement]) -> RolloutResult:
        if not judged or result.rollout.attempt is None:
            return result
        rewards = [item for item in judged if isinstance(item, Reward)]
        spans = [missing_span(result, item) for item in judged if isinstance(item, NoReward)]
        if rewards:
            await self._store.add_rewards(result.rollout.attempt.attempt_id, rewards)
        if spans:
            await self._store.add_spans(spans)
        return msgspec.structs.replace(result, rewards=(*result.rewards, *rewards), spans=(*result.spans, *spans))
