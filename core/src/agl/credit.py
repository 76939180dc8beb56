"""Credit: how the rewards of a rollout become rewards of its calls. The first of two levels; how a call's reward becomes one of its tokens
is the algorithm's business.

- `lightning`, the default: every call gets the rollout's reward (its role's own, where there is one), and what was given to the call itself.
  LightningRL, arXiv 2508.03680, section 3.3.
- `discounted`: a call gets what came after it in its conversation, `discount` for each call in between: rewards of later calls, and the
  rollout's reward at the end of each branch.
- `gigpo`: every call gets the rollout's reward, and its `step_advantage` compares its discounted return with those of the calls of its group
  that answered the same words in the same role. GiGPO, arXiv 2505.10978, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from agl.errors import ConfigError
from agl.results import Group, RolloutResult
from agl.rewards import COMBINED, FINAL
from agl.transitions import Transition, parents_of

NAMES = ("lightning", "discounted", "gigpo")
OPTIONS = {"discount": ("discounted", "gigpo"), "step_weight": ("gigpo",), "step_std": ("gigpo",)}
"""Options by name, with the kinds of credit that have them."""
STD_EPSILON = 1e-6


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """Credit by name; see the module."""

    name: str = "lightning"
    discount: float = 1.0
    """What a reward is worth one call earlier, from 0 to 1."""
    step_weight: float = 1.0
    """Of the step advantage beside the rollout's."""
    step_std: bool = True
    """Whether step advantages are divided by their deviation, as the estimator `grpo` does with a rollout's."""

    def assign(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with credit on all transitions."""
        return [self._of_group(group) for group in groups]

    def _of_group(self, group: Group) -> Group:
        shares = {"lightning": lightning, "discounted": self._discounted, "gigpo": _of_rollout}
        results = [
            msgspec.structs.replace(result, transitions=tuple(shares[self.name](result, result.transitions))) for result in group.results
        ]
        return msgspec.structs.replace(group, results=tuple(self._compared(results) if self.name == "gigpo" else results))

    def _discounted(self, result: RolloutResult, transitions: Sequence[Transition]) -> list[Transition]:
        returns = self._returns(result, transitions)
        return [msgspec.structs.replace(item, reward=value) for item, value in zip(transitions, returns, strict=True)]

    def _returns(self, result: RolloutResult, transitions: Sequence[Transition]) -> list[float | None]:
        """(K,) discounted return of each call; None where nothing was given to it or after it."""
        own, by_role = _own(result), _by_role(result)
        children: dict[int, list[int]] = {}
        for index, parent in enumerate(parents_of(transitions)):
            if parent is not None:
                children.setdefault(parent, []).append(index)
        ends: list[float | None] = [None] * len(transitions)
        given: list[float | None] = [None] * len(transitions)
        for index in reversed(range(len(transitions))):  # a call stands after its parent
            item, after = transitions[index], children.get(index, [])
            known = [value for child in after if (value := ends[child]) is not None]
            final = by_role.get(item.role, result.reward)
            ends[index] = final if not after else self.discount * math.fsum(known) / len(known) if known else None
            later = [self.discount * value for child in after if (value := given[child]) is not None]
            parts = later + ([own[item.span_id]] if item.span_id in own else [])
            given[index] = math.fsum(parts) if parts else None
        return [None if end is None and more is None else (end or 0.0) + (more or 0.0) for end, more in zip(ends, given, strict=True)]

    def _compared(self, results: Sequence[RolloutResult]) -> list[RolloutResult]:
        """The results with step advantages: calls in the same state are compared, whichever of the siblings made them."""
        states: dict[Any, list[tuple[int, int, float]]] = {}
        for number, result in enumerate(results):
            if result.reward is None:
                continue
            transitions = result.transitions
            for index, (key, value) in enumerate(zip(_states(transitions), self._returns(result, transitions), strict=True)):
                if transitions[index].trainable and value is not None:
                    states.setdefault(key, []).append((number, index, value))
        changed = [list(result.transitions) for result in results]
        for members in states.values():
            for (number, index, _), advantage in zip(members, self._advantages([value for _, _, value in members]), strict=True):
                changed[number][index] = msgspec.structs.replace(changed[number][index], step_advantage=advantage)
        return [msgspec.structs.replace(result, transitions=tuple(new)) for result, new in zip(results, changed, strict=True)]

    def _advantages(self, values: Sequence[float]) -> list[float]:
        if min(values) == max(values):
            return [0.0] * len(values)
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) + STD_EPSILON
        return [self.step_weight * (value - mean) / (deviation if self.step_std else 1.0) for value in values]


def split_credit(adapter: Any) -> tuple[Credit | None, Any]:
    """The credit that the Trainer's option `adapter` names (None when it names none), and the rest of the option.

    Raises:
        ConfigError: an unknown name, a value that cannot work, or an option without effect.
    """
    if not isinstance(adapter, Mapping):
        return None, adapter
    given = dict(cast(Mapping[str, Any], adapter))
    rest = {name: value for name, value in given.items() if name != "credit" and name not in OPTIONS}
    return _credit(given), rest


def _credit(adapter: Mapping[str, Any]) -> Credit | None:
    options = {name: adapter[name] for name in OPTIONS if name in adapter}
    name = adapter.get("credit")
    if name is None and not options:
        return None
    if name not in NAMES:
        raise ConfigError(f'`adapter["credit"]` must be one of {list(NAMES)}, given was {name!r}; a plugin\'s own needs no name')
    if idle := sorted(option for option in options if name not in OPTIONS[option]):
        raise ConfigError(f"the options {idle} of `adapter` have no effect on the credit `{name}`: {_known(idle)}")
    try:
        credit = msgspec.convert({"name": name, **options}, Credit)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the options of the credit `{name}` cannot be used: {error}; given were {options}") from None
    if not 0 <= credit.discount <= 1 or not math.isfinite(credit.step_weight) or credit.step_weight <= 0:
        raise ConfigError(f"`discount` must be from 0 to 1 and `step_weight` positive, given were {options}")
    return credit


def lightning(result: RolloutResult, transitions: Sequence[Transition]) -> list[Transition]:
    """The rollout's reward to every call, plus what was given to the call itself; a role's own final reward goes first."""
    own, by_role, final = _own(result), _by_role(result), result.reward

    def share(item: Transition) -> float | None:
        base, more = by_role.get(item.role, final), own.get(item.span_id)
        return base if more is None else more + (base or 0.0)

    return [msgspec.structs.replace(item, reward=share(item)) for item in transitions]


def _of_rollout(result: RolloutResult, transitions: Sequence[Transition]) -> list[Transition]:
    by_role, final = _by_role(result), result.reward
    return [msgspec.structs.replace(item, reward=by_role.get(item.role, final)) for item in transitions]


def _by_role(result: RolloutResult) -> dict[str | None, float]:
    """Final rewards of roles that were judged by themselves."""
    combining = result.rollout.reward_weights is not None
    return {
        reward.role: reward.value
        for reward in result.rewards
        if reward.name == FINAL and reward.role is not None and (reward.source == COMBINED or not combining)
    }


def _own(result: RolloutResult) -> dict[str, float]:
    """What was given to single calls, by span id: the sum of their rewards, each times the weight of its name."""
    weights, found = result.rollout.reward_weights or {}, dict[str, float]()
    for reward in result.rewards:
        if reward.span_id is not None:
            found[reward.span_id] = found.get(reward.span_id, 0.0) + weights.get(reward.name, 1.0) * reward.value
    return found


def _states(transitions: Sequence[Transition]) -> list[tuple[str | None, tuple[int, ...]]]:
    """(K,) what each call was asked anew: its role and its prompt after what its conversation had before."""
    found: list[tuple[str | None, tuple[int, ...]]] = []
    for item, parent in zip(transitions, parents_of(transitions), strict=True):
        known = 0 if parent is None else len(transitions[parent].prompt_ids) + len(transitions[parent].response_ids)
        found.append((item.role, item.prompt_ids[known:]))
    return found


def _known(options: Sequence[str]) -> str:
    return "; ".join(f"`{option}` is an option of {list(cast(tuple[str, ...], OPTIONS[option]))}" for option in options)
