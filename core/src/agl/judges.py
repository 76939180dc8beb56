"""Judges: what `Trainer(rewards=[…])` takes, made into plugins of that Trainer alone.

A judge is a function `(result) -> float | Reward | NoReward | list | None`, sync or async, or an object with `agl_reward`
or `agl_group_reward`, or the name of a driver of the group `agl.rewards`. `Judge` is a base class for objects; nobody
has to derive from it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

from agl.agents import call
from agl.errors import ConfigError
from agl.hookspecs import SPECS, hookimpl
from agl.registry import load
from agl.results import Group, RolloutResult
from agl.rewards import FINAL, Judgement, NoReward, Reward, make_reward

DRIVERS = "agl.rewards"
HOOKS = ("agl_reward", "agl_group_reward")


class Judge:
    """Base of judges: define `agl_reward(result)`, `agl_group_reward(group)` or both, sync or async.

    They give what the hooks of these names give, and also a plain number for the reward of this judge's name. A sync
    method runs in a thread, for several attempts at once.
    """

    name = "judge"
    """Name of its reward, for `reward_weights`; no two judges of a Trainer share one."""
    weight: float | None = None
    """Its weight where `reward_weights` does not name it; None for `default_weight`."""
    default_weight = 1.0
    per_call = False
    """Whether it judges single calls alone: a rollout to which it gives nothing then lacks nothing."""
    judges_failures = False
    """Whether it is asked about attempts in which the agent failed, too; their final reward is the Trainer's `failure_reward`."""

    def config(self) -> dict[str, Any]:
        """The options, as JSON, for the record of the run; a run goes on only with the same ones. No secrets."""
        return {}

    def summary(self) -> str | None:
        """What it cost so far, in a line for the end of a run; None for nothing to say."""
        return None


class Given:
    """One element of `Trainer(rewards=[…])`.

    Raises:
        ConfigError: not a judge, or one that cannot work.
    """

    def __init__(self, element: Any, options: Mapping[str, Any] | None = None) -> None:
        if inspect.isclass(element):
            raise ConfigError(f"`rewards` takes objects, given was the class `{element.__name__}`; write `{element.__name__}(…)`")
        judge: Any = _loaded(element, options or {}) if isinstance(element, str) else element
        self.judge = judge
        self.hooks = {hook: method for hook in HOOKS if callable(method := getattr(judge, hook, None))}
        if not self.hooks and not callable(judge):
            raise ConfigError(f"`rewards` takes functions, objects with `agl_reward` or `agl_group_reward`, and names; given was {judge!r}")
        if others := sorted(name for name in SPECS.keys() - set(HOOKS) if hasattr(judge, name)):
            raise ConfigError(f"`{judge!r}` in `rewards` also defines {others}, which only `plugins=[…]` calls; give it there")
        self.name = _name_of(judge, bool(self.hooks))
        self.weight = weight_of(self.name, getattr(judge, "weight", None))
        default = weight_of(self.name, getattr(judge, "default_weight", None))
        self.default_weight = self.weight if self.weight is not None else 1.0 if default is None else default
        """What it weighs where `reward_weights` does not name it."""
        self.per_call = bool(getattr(judge, "per_call", False))
        self.compares_only = set(self.hooks) == {"agl_group_reward"}
        """Whether it can say nothing of a rollout without siblings."""

    def config(self) -> dict[str, Any]:
        """The judge's options, as JSON."""
        return dict(self.judge.config()) if callable(getattr(self.judge, "config", None)) else {}

    def summary(self) -> str | None:
        """What the judge cost so far."""
        return self.judge.summary() if callable(getattr(self.judge, "summary", None)) else None

    def plugin(self) -> Any:
        """The judge as a plugin: hooks that take their place in the order of all others."""
        asks_failures = bool(getattr(self.judge, "judges_failures", False))
        if not self.hooks:
            return _OfRollout(self.name, asks_failures, self.judge)
        if len(self.hooks) == 2:
            return _OfBoth(self.name, asks_failures, *(self.hooks[hook] for hook in HOOKS))
        kind = _OfGroup if self.compares_only else _OfRollout
        return kind(self.name, asks_failures, *self.hooks.values())


def given_rewards(elements: Iterable[Any], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Given]:
    """The elements of `Trainer(rewards=[…])`.

    Args:
        elements: judges, or names of drivers.
        options: for the drivers, by the name that they are asked for with.

    Raises:
        ConfigError: one is no judge, or two share a name.
        PluginError: a name that no package brings.
    """
    if isinstance(elements, (str, bytes)) or not isinstance(cast(object, elements), Iterable):
        raise ConfigError(f"`rewards` must be a list, given was {elements!r}; write `rewards=[{elements!r}]`")
    found: dict[str, Given] = {}
    for element in elements:
        given = Given(element, (options or {}).get(element) if isinstance(element, str) else None)
        if given.name in found:
            raise ConfigError(f"two of `rewards` are named `{given.name}`; give one another `name`, since weights go by name")
        found[given.name] = given
    return list(found.values())


def weight_of(name: str, value: Any) -> float | None:
    """A weight, checked; None stays None.

    Raises:
        ConfigError: not a finite number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"the weight of the reward `{name}` must be a finite number, given was {value!r}")
    return float(value)


class _OfRollout:
    """Judges attempts."""

    def __init__(self, name: str, judges_failures: bool, function: Callable[..., Any]) -> None:
        self.name = name
        self._judges_failures, self._function = judges_failures, function

    @hookimpl
    async def agl_reward(self, result: RolloutResult) -> list[Judgement] | None:
        if not (result.succeeded or self._judges_failures):
            return None
        return named(await call(self._function, result), self.name)


class _OfGroup:
    """Judges groups."""

    def __init__(self, name: str, judges_failures: bool, function: Callable[..., Any]) -> None:
        self.name = name
        self._compare = function

    @hookimpl
    async def agl_group_reward(self, group: Group) -> Any:
        given = await call(self._compare, group)
        if not isinstance(given, Mapping):
            return given
        return {rollout_id: named(judged, self.name) for rollout_id, judged in cast(Mapping[str, Any], given).items()}


class _OfBoth(_OfRollout, _OfGroup):
    """Judges attempts and groups."""

    def __init__(self, name: str, judges_failures: bool, function: Callable[..., Any], compare: Callable[..., Any]) -> None:
        _OfRollout.__init__(self, name, judges_failures, function)
        self._compare = compare


def named(given: Any, name: str) -> list[Judgement]:
    """What a judge gave as judgements under its name: numbers, and rewards that were left at the default name or source."""
    items: list[Any] = [] if given is None else [*given] if isinstance(given, (list, tuple)) else [given]
    found: list[Judgement] = []
    for item in items:
        if not isinstance(item, (Reward, NoReward)):
            item = make_reward(item, name=name, source=name)
        own = {"name": name if item.name == FINAL else item.name, "source": name if item.source == "agent" else item.source}
        found.append(msgspec.structs.replace(item, **own))
    return found


def _name_of(judge: Any, is_object: bool) -> str:
    inner: Any = judge.func if hasattr(judge, "func") else judge  # of `functools.partial`
    name = getattr(judge, "name", None) or getattr(inner, "__name__", None) or type(inner).__name__
    if not isinstance(name, str) or not name or name == "<lambda>":
        raise ConfigError(f"a reward needs a name, {judge!r} has {name!r}; write a function with `def`, or an object with `name`")
    if is_object and name == FINAL:
        raise ConfigError(f"`{type(judge).__name__}` is named `{FINAL}`, as the agent's own reward is; give it another `name`")
    return name


def _loaded(name: str, options: Mapping[str, Any]) -> Any:
    """The driver of a name: a class is made with the options, a function is the judge itself."""
    driver = load(DRIVERS, name)
    if not inspect.isclass(driver):
        if options:
            raise ConfigError(f"the reward `{name}` is a function, which takes no options; given were {sorted(options)}")
        return driver
    try:
        return driver(**options)
    except TypeError as error:
        takes = list(inspect.signature(driver).parameters)
        raise ConfigError(
            f"the reward `{name}` cannot be made with the options {sorted(options)}: {error}; it takes {takes}, "
            f"from `[rewards.{name}]` of agl.toml; or give an object in `rewards`"
        ) from error
