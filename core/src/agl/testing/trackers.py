"""TrackerConformance: what every tracker promises, as checks.

    class TestMyTracker(TrackerConformance):
        tracker = MyTracker
        package = "dashboard"
        offline = {"DASHBOARD_MODE": "offline"}

        def make_tracker(self, folder: Path) -> Tracker:
            return MyTracker(folder / "curves")

        def read(self, folder: Path, run: TrackedRun) -> Kept:
            curves = dashboard.read(folder / "curves" / run.run_id)
            return Kept(metrics={curve.name: dict(curve.points) for curve in curves})

Every check has a working directory, a home and a folder for temporary files of its own, all empty.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import msgspec

from agl.errors import ConfigError
from agl.results import Evaluation
from agl.rewards import Reward
from agl.testing.expected import Conformance, not_applicable, require
from agl.testing.rewards import make_result
from agl.testing.running import left_behind, run_check
from agl.testing.secluded import Place, processes_left, running_processes, secluded
from agl.trackers import TrackedRun, Tracker

CONFIG: dict[str, Any] = {"algorithm": "toy", "algorithm.lr": 0.5, "algorithm.rank": None, "n_runners": 8, "roles": {"writer": "train"}}
SEED = 4
Event = tuple[str, Any]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a dashboard holds of one run, read with its own reader."""

    metrics: Mapping[str, Mapping[int, float]]
    """By name and step; the last one written where there are several."""
    config: Mapping[str, Any] = {}
    """Configuration by name, the seed under `seed`; values or their texts."""
    status: str | None = None
    """How the run ended, in the dashboard's words; None where it keeps none."""


class TrackerConformance(Conformance):
    """Checks of a driver of `agl.trackers`."""

    tracker: ClassVar[type[Tracker]]
    """The class to check."""
    package: ClassVar[str | None] = None
    """The name by which the dashboard's package is imported; None without one."""
    offline: ClassVar[Mapping[str, str]] = {}
    """Environment variables that keep the dashboard's package off the network; set in every check."""
    patience: ClassVar[float] = 5.0
    """Seconds that threads and processes may take to end after `run_ended`."""
    leaves: ClassVar[tuple[str, ...]] = ()
    """Files that the dashboard's own package keeps elsewhere, as patterns below the home folder, such as `.cache/dashboard/*`."""

    def make_tracker(self, folder: Path) -> Tracker:
        """A tracker that keeps its files in `folder`, or, as it does when told nothing, in the run's directory."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_tracker(self, folder)`")

    def read(self, folder: Path, run: TrackedRun) -> Kept:
        """What the dashboard holds of a run that `make_tracker(folder)` tracked."""
        raise NotImplementedError(f"{type(self).__name__} must define `read(self, folder, run)`")

    # What is kept.

    def test_numbers_are_kept_by_step(self) -> None:
        """If this fails, the dashboard shows no curve, or one at the wrong steps."""
        with self._place() as place:
            run = _run(place, "run-a")
            events = [_evaluated(0, 0.0, 1.0), _step(1, reward=0.25), _step(2, reward=0.5), _evaluated(2, 1.0, 1.0)]
            tell(self.make_tracker(place.given), ("run_started", run), *events, ("run_ended", "done"))
            kept = self.read(place.given, run)
            _check_curve(kept, "reward", {1: 0.25, 2: 0.5})
            _check_curve(kept, "val/reward", {0: 0.5, 2: 1.0})

    def test_the_configuration_and_the_seed_are_kept(self) -> None:
        """If this fails, nobody can tell what was different about a run."""
        with self._place() as place:
            run = _run(place, "run-a")
            tell(self.make_tracker(place.given), ("run_started", run), _step(1), ("run_ended", "done"))
            found = self.read(place.given, run).config
            for name, value in {"algorithm": "toy", "algorithm.lr": 0.5, "n_runners": 8, "seed": SEED}.items():
                require(
                    str(found.get(name)) == str(value), f"`{name}` is {value}, and kept is {found.get(name)!r}; all that is kept: {found}"
                )

    def test_a_run_that_goes_on_is_the_same_run(self) -> None:
        """If this fails, a resumed run is two runs, loses its beginning, or shows what was undone after its checkpoint."""
        with self._place() as place:
            run = _run(place, "run-a")
            steps = [_step(n, reward=n / 8) for n in range(1, 5)]
            tell(self.make_tracker(place.given), ("run_started", run), *steps, ("run_ended", "stopped"))
            again = [_step(n, reward=n / 8 + 0.5) for n in range(3, 6)]
            goes_on = msgspec.structs.replace(run, step=2)
            tell(self.make_tracker(place.given), ("run_started", goes_on), *again, ("run_ended", "done"))
            _check_curve(self.read(place.given, goes_on), "reward", {1: 0.125, 2: 0.25, 3: 0.875, 4: 1.0, 5: 1.125})

    def test_several_runs_are_kept_apart(self) -> None:
        """If this fails, two fits of one Trainer draw one curve."""
        with self._place() as place:
            runs, tracker = [_run(place, "run-a"), _run(place, "run-b")], self.make_tracker(place.given)
            for n, run in enumerate(runs):
                tell(tracker, ("run_started", run), _step(1, reward=n + 0.25), _step(n + 2, reward=n + 0.5), ("run_ended", "done"))
            _check_curve(self.read(place.given, runs[0]), "reward", {1: 0.25, 2: 0.5})
            _check_curve(self.read(place.given, runs[1]), "reward", {1: 1.25, 3: 1.5})

    def test_a_run_that_failed_does_not_look_like_one_that_is_done(self) -> None:
        """If this fails, a run that broke or was stopped passes for a result."""
        found: dict[str, str | None] = {}
        for status in ("done", "failed", "stopped"):
            with self._place() as place:
                run = _run(place, "run-a")
                tell(self.make_tracker(place.given), ("run_started", run), _step(1, reward=0.5), ("run_ended", status))
                kept = self.read(place.given, run)
                _check_curve(kept, "reward", {1: 0.5})
                found[status] = kept.status
        if set(found.values()) == {None}:
            not_applicable("this dashboard keeps no status")
        require(found["failed"] != found["done"] != found["stopped"], f"runs that ended so are kept as {found}")

    # What is no number.

    def test_what_is_no_number_costs_nothing_else(self) -> None:
        """If this fails, one metric that is a text, None or NaN ends the tracking, or becomes a number that nobody measured."""
        strange = {"none": None, "text": "0.5", "flag": True, "list": [1.0], "dict": {"a": 1.0}, "infinite": math.inf, "nan": math.nan}
        names = {"planner/writer reward": 0.5, "share (%)": 0.5, "größe": 0.5, "/a//b/": 0.5, "x" * 300: 0.5}
        with self._place() as place:
            run = _run(place, "run-a")
            events = [_step(1, **strange, **names, reward=0.25), _step(2, none=0.5, reward=0.5)]
            tell(self.make_tracker(place.given), ("run_started", run), *events, ("run_ended", "done"))
            kept = self.read(place.given, run)
            _check_curve(kept, "reward", {1: 0.25, 2: 0.5})
            _check_curve(kept, "none", {2: 0.5})
            invented = {name: dict(kept.metrics.get(name, {})) for name in ("none", "nan") if 1 in kept.metrics.get(name, {})}
            wrong = {name: points for name, points in invented.items() if math.isfinite(points[1])}
            require(not wrong, f"None and NaN were told, and kept are {wrong}")

    def test_an_evaluation_without_a_reward_is_no_number(self) -> None:
        """If this fails, an endpoint that was down looks like an agent that got everything wrong."""
        with self._place() as place:
            run = _run(place, "run-a")
            events = [_step(1), _evaluated(1), _step(2), _evaluated(2, 1.0)]
            tell(self.make_tracker(place.given), ("run_started", run), *events, ("run_ended", "done"))
            _check_curve(self.read(place.given, run), "val/reward", {2: 1.0})

    # What it does to its surroundings.

    def test_nothing_is_left_behind(self) -> None:
        """If this fails, run after run leaves threads, processes, or files where nobody looks for them."""
        with self._place() as place:
            threads, processes = set(threading.enumerate()), running_processes()
            for name in ("run-a", "run-b"):
                tell(self.make_tracker(place.given), ("run_started", _run(place, name)), _step(1, reward=0.5), ("run_ended", "done"))
            left = left_behind(threads, self.patience)
            require(not left, f"after `run_ended` threads go on: {left}")
            left = processes_left(processes, self.patience)
            require(not left, f"after `run_ended` processes go on: {left}")
            files = place.strays(self.leaves)
            require(
                not files,
                f"files outside the run's directory and the folder that it was given: {files}; name them in `leaves`, or move them",
            )

    def test_offline_it_opens_no_connection(self) -> None:
        """If this fails, a run that must not tell anybody anything does."""
        with self._place() as place:
            tell(self.make_tracker(place.given), ("run_started", _run(place, "run-a")), _step(1, reward=0.5), ("run_ended", "done"))
            require(not place.reached, f"with {dict(self.offline)} it tried to reach {sorted(set(place.reached))}")

    def test_importing_it_does_not_import_the_dashboard(self) -> None:
        """If this fails, `agl --help` and every other run wait for a package that they do not use."""
        if self.package is None:
            not_applicable("this tracker needs no package")
        code = "import importlib, sys; importlib.import_module(sys.argv[1]); print(sys.argv[2] in sys.modules)"
        command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}", self.tracker.__module__, self.package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        require(done.returncode == 0, f"`import {self.tracker.__module__}` fails: {done.stderr[-1000:]}")
        require(
            done.stdout.strip() == "False", f"`import {self.tracker.__module__}` imports {self.package}; import it where a tracker is made"
        )

    def test_a_missing_package_is_a_configuration_error(self) -> None:
        """If this fails, a run finds out after it has begun that nobody tracks it, or does not say what to install."""
        if self.package is None:
            not_applicable("this tracker needs no package")
        parts = [self.package, *(name for name in sys.modules if name.startswith(f"{self.package}."))]
        with self._place() as place, mock.patch.dict(sys.modules, dict.fromkeys(parts)):
            try:
                self.make_tracker(place.given)
            except ConfigError as error:
                require("pip install" in str(error), f"the error does not say what to install: {error}")
            except Exception as error:
                require(False, f"without {self.package} it is made with {type(error).__name__}: {error}; raise a ConfigError")
            else:
                require(False, f"without {self.package} it is made all the same, and fails when the run has begun")

    def _place(self) -> Any:
        return secluded(self.offline)


def tell(tracker: Tracker, *events: Event) -> None:
    """Call methods of a tracker as the Trainer does: one after the other, plain ones in a thread; what they raise is raised."""

    async def main() -> None:
        for name, argument in events:
            answer = await asyncio.to_thread(getattr(tracker, name), argument)
            if inspect.isawaitable(answer):
                await answer

    run_check(main())


def _run(place: Place, run_id: str) -> TrackedRun:
    return TrackedRun(run_id=run_id, config=dict(CONFIG), seed=SEED, directory=place.directory(run_id))


def _step(step: int, **metrics: Any) -> Event:
    return "step_ended", {"step": step, "version": step, **metrics, "seconds": 0.5}


def _evaluated(step: int, *rewards: float) -> Event:
    """Without rewards it is one of a rollout that has none."""
    results = [make_result("", rewards=[Reward(value=value)]) for value in rewards] or [make_result("")]
    return "evaluated", Evaluation(results=tuple(results), mode="val", step=step, resources_version=step)


def _check_curve(kept: Kept, name: str, wanted: Mapping[int, float]) -> None:
    found = dict(kept.metrics.get(name, {}))
    close = found.keys() == wanted.keys() and all(math.isclose(found[step], wanted[step], rel_tol=1e-6) for step in wanted)
    require(close, f"`{name}` is {found} by step, not {dict(wanted)}; the curves are {sorted(kept.metrics)}")
