"""Weights: how several rewards of a rollout become the final one. One that is missing leaves none: missing is never 0."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agl.errors import ConfigError
from agl.judges import Given, weight_of
from agl.results import RolloutResult
from agl.rewards import COMBINED, FINAL, RESERVED, NoReward, Reward, make_reward
from agl.rollouts import REWARD
from agl.spans import SpanKind


class Weights:
    """Makes the final rewards of one run.

    Each of the judges' rewards weighs what its judge says (1.0), and `reward`, the agent's own, weighs 1.0; `reward_weights`
    changes that by name and may add other names. A reward with a weight is needed of every rollout, with three exceptions:
    weight 0 only records it; a name seen on calls or roles alone judges those; and the agent need not give a `reward` that
    `reward_weights` does not name, as long as none of its rollouts has one.

    Raises:
        ConfigError: not names with finite numbers, or weights without effect.
    """

    def __init__(self, given: Sequence[Given] = (), reward_weights: Any = None, *, active: bool = False) -> None:
        self._given = {judge.name: judge for judge in given}
        self.asked = _checked(given, reward_weights)
        """What `reward_weights` says."""
        self.active = active or bool(given) or bool(self.asked)
        """Whether final rewards are combined; else the reward named `reward` is the final one."""
        self._weights = {FINAL: 1.0} | {name: judge.default_weight for name, judge in self._given.items()} | self.asked
        if not any(self._weights.values()):
            raise ConfigError(f"all weights are 0, so that nothing can be learned: {self._weights}")
        self._whole: set[str] = set()  # names seen on whole rollouts
        self._parts: set[str] = set()  # names seen on calls and roles
        self._told: set[str] = set()

    def for_group(self, size: int) -> dict[str, float] | None:
        """Weights for rollouts of a group of that size: one alone cannot be compared. None where nothing is combined."""
        alone = {name for name, judge in self._given.items() if judge.compares_only and size < 2}
        return {name: weight for name, weight in self._weights.items() if name not in alone} if self.active else None

    def combine(self, results: Sequence[RolloutResult]) -> list[list[Reward] | NoReward]:
        """For each result its final rewards (of the rollout, and of roles that were judged by themselves), or why there is none."""
        for reward in (reward for result in results for reward in result.rewards if reward.source not in RESERVED):
            (self._whole if _is_whole(reward) else self._parts).add(reward.name)
        return [self._final(result) for result in results]

    def awaits(self, result: RolloutResult) -> bool:
        """Whether a rollout lacks a reward that only somebody outside can give: not the agent, which has ended, and no judge."""
        if result.failure is not None:
            return False
        if result.rollout.reward_weights is None:
            return result.reward is None
        needed = {name for name, weight in result.rollout.reward_weights.items() if weight and name not in self._given}
        missing = needed - {reward.name for reward in result.rewards if _is_whole(reward)}
        return any(name in self.asked or not self._optional(name) for name in missing)

    def uncounted(self, results: Sequence[RolloutResult]) -> list[str]:
        """Names that the judges gave to rollouts and that have no weight; each is told once."""
        rewards = (reward for result in results for reward in result.rewards)
        found = {reward.name for reward in rewards if _is_whole(reward) and reward.source in self._given} - self._weights.keys()
        new, self._told = found - self._told, self._told | found
        return sorted(new)

    def _final(self, result: RolloutResult) -> list[Reward] | NoReward:
        if result.policy not in (None, REWARD):
            return []
        weights = result.rollout.reward_weights or {}
        needed = [name for name, weight in weights.items() if weight and not self._optional(name)]
        values = {reward.name: reward for reward in result.rewards if _is_whole(reward)}
        reasons = [self._why(name, result) for name in needed if name not in values] + _clashes(needed, result)
        if needed and not reasons:
            return [_combined(values, needed, weights), *_of_roles(values, needed, weights, result)]
        if result.failure is not None:  # an agent that failed has the reward for that, or is left out on purpose
            return []
        nothing = f"nothing judged the whole rollout: the agent returned None, and there is no other reward of {list(weights)}"
        return NoReward(reason="; ".join(reasons) or nothing, source=COMBINED)

    def _optional(self, name: str) -> bool:
        if name in self._given and self._given[name].per_call:
            return True
        if name not in self._whole and name in self._parts:
            return True
        return name == FINAL and name not in self.asked and name not in self._whole

    def _why(self, name: str, result: RolloutResult) -> str:
        said = [span.error for span in result.spans if span.kind == SpanKind.REWARD and span.attributes.get("agl.reward.name") == name]
        if said:
            return f"the reward `{name}` is missing: {said[-1]}"
        known = sorted(self._whole | self._parts)
        if name in self._given:
            named = sorted({reward.name for reward in result.rewards if reward.source == name})
            instead = f"; it gave {named}, which need weights of their own" if named else ""
            alone = " (it compares siblings, of which at least two must succeed)" if self._given[name].compares_only else ""
            return f"the reward `{name}` is missing: `{name}` gave none{instead}{alone}"
        if name in self._whole:
            return f"the reward `{name}` is missing: the agent gave none" + (" (it returned None)" if name == FINAL else "")
        close = difflib.get_close_matches(name, known, 1)
        meant = f"did you mean `{close[0]}`? " if close else ""
        return f"no rollout has a reward `{name}`; {meant}There are {known}: mend `reward_weights`"


def _checked(given: Sequence[Given], weights: Any) -> dict[str, float]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        raise ConfigError(f'`reward_weights` must be numbers by name, such as {{"reward": 1.0, "judge": 0.5}}, given was {weights!r}')
    found = {str(name): weight_of(str(name), value) for name, value in cast(Mapping[Any, Any], weights).items()}
    if none := sorted(name for name, value in found.items() if value is None):
        raise ConfigError(f"`reward_weights` gives {none} no number; write one, or leave the name out")
    if twice := sorted(judge.name for judge in given if judge.weight is not None and judge.name in found):
        raise ConfigError(f"the rewards {twice} have a `weight` of their own and one in `reward_weights`; keep one of them")
    return {name: value for name, value in found.items() if value is not None}


def _is_whole(reward: Reward) -> bool:
    return reward.span_id is None and reward.role is None and reward.source not in RESERVED


def _clashes(needed: Sequence[str], result: RolloutResult) -> list[str]:
    """Names under which two judges gave different things."""
    sources: dict[str, set[str]] = {}
    for reward in filter(_is_whole, result.rewards):
        sources.setdefault(reward.name, set()).add(reward.source)
    # An agent that emits a reward and returns it, too, says it twice.
    own = {"agent", "returned"}
    return [
        f"the reward `{name}` comes from {sorted(sources[name])}; give each a name of its own"
        for name in needed
        if len(sources.get(name, set()) - own) + bool(sources.get(name, set()) & own) > 1
    ]


def _combined(values: Mapping[str, Reward], names: Sequence[str], weights: Mapping[str, float], role: str | None = None) -> Reward:
    told = {"weights": {name: weights[name] for name in names}, "values": {name: values[name].value for name in names}}
    total = sum(weights[name] * values[name].value for name in names)
    return make_reward(total, source=COMBINED, role=role, details=told)


def _of_roles(values: Mapping[str, Reward], needed: Sequence[str], weights: Mapping[str, float], result: RolloutResult) -> list[Reward]:
    """A final reward for each role that was judged by itself: its own values go before the rollout's."""
    by_role: dict[str, dict[str, Reward]] = {}
    for reward in result.rewards:
        if reward.role is not None and reward.span_id is None and weights.get(reward.name):
            by_role.setdefault(reward.role, {})[reward.name] = reward
    return [_combined({**values, **own}, list(dict.fromkeys([*needed, *own])), weights, role) for role, own in by_role.items()]
