"""Tracker: is told how a run goes, for a dashboard or a file; the contract of every driver of `agl.trackers`.

Trackers are isolated as observers are: one that fails is warned of once, counted, and the run goes on.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.errors import ConfigError
from agl.registry import load
from agl.results import Evaluation

log = logging.getLogger("agl")

TELL_SECONDS = 30.0
"""How long a tracker may take for one event; one that takes longer is told nothing more."""
_GROUP = "agl.trackers"


class TrackedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run that a tracker is told of."""

    run_id: str
    config: dict[str, Any]
    """Configuration as JSON: the algorithm's options under `algorithm.<name>`."""
    seed: int
    directory: Path
    """Where the run's own files are."""
    step: int = 0
    """Steps that are finished; more than 0 when a run goes on. What came after it is told again."""


class Tracker:
    """Base of all trackers. Each method may be async; others run in a thread, one after the other.

    A run is told as `run_started`, then any number of `step_ended` and `evaluated` in the order they happen, then
    `run_ended`. An object that tracks several runs gets them after each other. What the constructor raises stops the
    Trainer from being made: a missing package or a wrong option belongs there, as a `ConfigError`.
    """

    name = "tracker"

    def run_started(self, run: TrackedRun) -> Any:
        """A run begins, or goes on after `run.step`. A tracker that fails here is told nothing more of this run."""

    def step_ended(self, metrics: Mapping[str, Any]) -> Any:
        """A step is finished: its metrics by name, `step` (from 1) and `version` among them. Values are JSON; some are no numbers."""

    def evaluated(self, evaluation: Evaluation) -> Any:
        """An evaluation has ended: its results with its mode, step and mean reward (None when nothing was judged)."""

    def run_ended(self, status: str) -> Any:
        """The run is over: `done`, `stopped` (by Ctrl-C) or `failed`."""


class Trackers:
    """The trackers of one run."""

    def __init__(self, given: Iterable[Tracker] = ()) -> None:
        self._told = list(given)
        self.failures: Counter[str] = Counter()
        """Failures that were isolated, by `tracker.event`."""

    async def tell(self, event: str, argument: Any) -> None:
        """Call a method of every tracker; returns when all have answered or failed."""
        for tracker in list(self._told):
            try:
                async with asyncio.timeout(TELL_SECONDS):
                    await _call(getattr(tracker, event), argument)
            except Exception as error:
                self._isolate(tracker, event, error)

    def _isolate(self, tracker: Tracker, event: str, error: Exception) -> None:
        over = event == "run_started" or isinstance(error, TimeoutError)
        if over:
            self._told.remove(tracker)
        key = f"{tracker.name}.{event}"
        self.failures[key] += 1
        if self.failures[key] == 1:
            said = f"took more than {TELL_SECONDS:g} s" if isinstance(error, TimeoutError) and not str(error) else str(error)
            then = "it is told nothing more of this run" if over else "said once"
            log.warning("tracker `%s` failed in `%s`: %s: %s (%s)", tracker.name, event, type(error).__name__, said, then)


def make_trackers(given: Iterable[Tracker | str]) -> list[Tracker]:
    """Trackers from objects and names; `name=value` makes the driver with its first argument, such as `jsonl=runs.jsonl`.

    Raises:
        ConfigError: something else was given, or the driver refuses its argument.
        PluginError: there is no such driver; the message lists those there are.
    """
    if isinstance(given, (str, Tracker)):
        raise ConfigError(f"`trackers` must be a list, given was {given!r}; write `trackers=[{given!r}]`")
    return [_named(one) if isinstance(one, str) else _checked(one) for one in given]


def package_of_tracker(tracker: str, module: str) -> Any:
    """The module of a dashboard's package, imported when a tracker of it is made.

    Raises:
        ConfigError: it is not installed; the extra of agl-core that brings it has the tracker's name.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f'the tracker `{tracker}` needs {package} ({error}): pip install "agl-core[{tracker}]"') from error


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among a step's metrics, without the step itself: what can be a curve.

    Counts by kind get a name each: `{"failures": {"timeout": 2}}` is `failures.timeout`.
    """
    found = {name: value for name, value in flat(metrics).items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {name: float(value) for name, value in found.items() if name != "step" and math.isfinite(value)}


def evaluation_numbers(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation as curves: `<mode>/reward`, and the ends of its 95 % interval as `<mode>/reward_low` and `<mode>/reward_high`.

    Empty when nothing was judged; without an interval where one reward alone says nothing of the spread.
    """
    from agl.report.intervals import estimate

    found = estimate([result.reward for result in evaluation.results if result.reward is not None])
    if found is None:
        return {}
    named = {"reward": found.mean, "reward_low": found.low, "reward_high": found.high}
    return {f"{evaluation.mode}/{name}": value for name, value in named.items() if value is not None}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with one name for each value: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _named(given: str) -> Tracker:
    name, separator, value = given.partition("=")
    driver = load(_GROUP, name)
    try:
        return _checked(driver(value) if separator else driver())
    except TypeError as error:
        raise ConfigError(
            f"the tracker `{name}` cannot be made from {given!r}: {error}; write `{name}=VALUE`, or give the object"
        ) from error


def _checked(given: Any) -> Tracker:
    if not isinstance(given, Tracker):
        raise ConfigError(f"a tracker must be an `agl.trackers.Tracker` or the name of one, given was {given!r}")
    return given


async def _call(method: Any, argument: Any) -> None:
    if inspect.iscoroutinefunction(method):
        await method(argument)
        return
    answer = await asyncio.to_thread(method, argument)
    if inspect.isawaitable(answer):
        await cast(Any, answer)
