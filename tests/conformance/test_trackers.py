"""The tracker `jsonl` keeps its contract, and the kit finds trackers that do not, by name."""

import contextlib
import json
import math
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from agl.builtin.jsonl import JSONLines
from agl.testing import ScriptedServer
from agl.testing.expected import checks_of, failing
from agl.testing.secluded import secluded
from agl.testing.trackers import Kept, TrackerConformance
from agl.trackers import Tracker, evaluation_numbers, numbers

BOARD = "class Board: pass\n"
TRACKER = """
{first}
from agl.errors import ConfigError
from agl.trackers import Tracker

class Boarded(Tracker):
    def __init__(self):
        {imports}
"""


class TestJSONLines(TrackerConformance):
    tracker = JSONLines

    def make_tracker(self, folder):
        return JSONLines(folder / "runs.jsonl")

    def read(self, folder, run):
        lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
        own = [line for line in lines if line["run"] == run.run_id]
        return kept(own, next(line["config"] | {"seed": line["seed"]} for line in own if line["event"] == "run_started"))


def kept(lines, config):
    """What lines such as those of `jsonl` tell of one run."""
    metrics, status = {}, None
    for line in lines:
        if line["event"] == "run_ended":
            status = line["status"]
        prefix = {"step_ended": "", "evaluated": f"{line.get('mode')}/"}.get(line["event"])
        for name, value in numbers(line).items() if prefix is not None else ():
            metrics.setdefault(prefix + name, {})[line["step"]] = value
    return Kept(metrics=metrics, config=config, status=status)


class Small(Tracker):
    """A tracker that keeps its contract: one JSON file a run."""

    name = "small"

    def __init__(self, folder):
        self.folder = folder

    def run_started(self, run):
        self.path = self.folder / f"{run.run_id}.json"
        first = {"metrics": {}, "config": {**run.config, "seed": run.seed}, "status": None}
        self.kept = json.loads(self.path.read_text()) if self.path.exists() else first
        self.save()

    def step_ended(self, metrics):
        self.write(numbers(metrics), metrics["step"])

    def evaluated(self, evaluation):
        self.write(evaluation_numbers(evaluation), evaluation.step)

    def run_ended(self, status):
        self.kept["status"] = status
        self.save()

    def write(self, values, step):
        for name, value in values.items():
            self.kept["metrics"].setdefault(name, {})[str(step)] = value
        self.save()

    def save(self):
        self.path.write_text(json.dumps(self.kept))


class SmallConformance(TrackerConformance):
    tracker = Small

    def make_tracker(self, folder):
        return self.tracker(folder)

    def read(self, folder, run):
        found = json.loads((folder / f"{run.run_id}.json").read_text())
        metrics = {name: {int(step): value for step, value in points.items()} for name, points in found["metrics"].items()}
        return Kept(metrics=metrics, config=found["config"], status=found["status"])


class TestSmall(SmallConformance):
    """What the broken ones are made of keeps the contract itself."""


class CountsForItself(Small):
    """Numbers the steps as they come."""

    def write(self, values, step):
        self.steps = getattr(self, "steps", -1) + 1
        super().write(values, self.steps)


class DropsTheOptions(Small):
    """Keeps no configuration."""

    def run_started(self, run):
        super().run_started(run)
        self.kept["config"] = {}


class StartsAnew(Small):
    """Takes a run that goes on for a new one."""

    def run_started(self, run):
        (self.folder / f"{run.run_id}.json").unlink(missing_ok=True)
        super().run_started(run)


class RefusesWhatItKnows(Small):
    """Keeps the first number of each step, as counters do that only go up."""

    def write(self, values, step):
        super().write({name: value for name, value in values.items() if str(step) not in self.kept["metrics"].get(name, {})}, step)


class KeepsOneRun(Small):
    """Writes all runs into the first one."""

    def run_started(self, run):
        if not hasattr(self, "path"):
            super().run_started(run)
        (self.folder / f"{run.run_id}.json").touch()


class SaysDone(Small):
    """Has one word for every end."""

    def run_ended(self, status):
        super().run_ended("finished")


class TakesAllForNumbers(Small):
    """Fails at a text."""

    def step_ended(self, metrics):
        self.write({name: float(value) for name, value in metrics.items() if value is not None}, metrics["step"])


class TakesNoneForZero(Small):
    """Writes 0 where there is nothing."""

    def step_ended(self, metrics):
        given = {name: 0.0 if value is None else value for name, value in metrics.items()}
        self.write(numbers(given), metrics["step"])

    def evaluated(self, evaluation):
        self.write({f"{evaluation.mode}/reward": evaluation.mean or 0.0}, evaluation.step)


class TakesNaNForZero(Small):
    """Replaces what is not finite."""

    def step_ended(self, metrics):
        given = {name: 0.0 if isinstance(value, float) and not math.isfinite(value) else value for name, value in metrics.items()}
        self.write(numbers(given), metrics["step"])


class LeavesAThread(Small):
    """Uploads for ever."""

    over = threading.Event()

    def run_started(self, run):
        threading.Thread(target=self.over.wait, name="uploads", daemon=True).start()
        super().run_started(run)


class LeavesAProcess(Small):
    """Starts a service, and forgets it."""

    started = []

    def run_started(self, run):
        self.started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        super().run_started(run)


class WritesWhereItStands(Small):
    """Keeps a log in the working directory."""

    def run_ended(self, status):
        Path("tracker.log").write_text(status)
        super().run_ended(status)


class PhonesHome(Small):
    """Tells its makers of every run, and hides that it could not."""

    def run_started(self, run):
        super().run_started(run)
        with contextlib.suppress(OSError):
            urllib.request.urlopen("http://metrics.example/run", timeout=5).close()


class PhonesHomeBySocket(Small):
    """As the one before, past the proxy."""

    def run_started(self, run):
        super().run_started(run)
        with contextlib.suppress(OSError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://metrics.example/run", timeout=5).close()


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (CountsForItself, "test_numbers_are_kept_by_step"),
        (DropsTheOptions, "test_the_configuration_and_the_seed_are_kept"),
        (StartsAnew, "test_a_run_that_goes_on_is_the_same_run"),
        (RefusesWhatItKnows, "test_a_run_that_goes_on_is_the_same_run"),
        (KeepsOneRun, "test_several_runs_are_kept_apart"),
        (SaysDone, "test_a_run_that_failed_does_not_look_like_one_that_is_done"),
        (TakesAllForNumbers, "test_what_is_no_number_costs_nothing_else"),
        (TakesNoneForZero, "test_what_is_no_number_costs_nothing_else"),
        (TakesNoneForZero, "test_an_evaluation_without_a_reward_is_no_number"),
        (TakesNaNForZero, "test_what_is_no_number_costs_nothing_else"),
        (LeavesAThread, "test_nothing_is_left_behind"),
        (LeavesAProcess, "test_nothing_is_left_behind"),
        (WritesWhereItStands, "test_nothing_is_left_behind"),
        (PhonesHome, "test_offline_it_opens_no_connection"),
        (PhonesHomeBySocket, "test_offline_it_opens_no_connection"),
    ],
)
def test_a_broken_tracker_is_caught_by_name(broken, check):
    try:
        found = failing(type("Broken", (SmallConformance,), {"tracker": broken, "patience": 0.2}), only=(check,))
    finally:
        LeavesAThread.over.set()
        LeavesAThread.over.clear()  # those that wait have gone on
        for process in LeavesAProcess.started:
            process.communicate()
        LeavesAProcess.started.clear()
    assert list(found) == [check]


def boarded(tmp_path, monkeypatch, **code):
    """A kit for a tracker with a dashboard's package `kitboard`, each in a module of its own."""
    (tmp_path / "kitboard.py").write_text(BOARD)
    (tmp_path / "kitboard_tracker.py").write_text(TRACKER.format(**{"first": "", "imports": "pass", **code}))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("kitboard", "kitboard_tracker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import kitboard_tracker

    kit = type("Kit", (TrackerConformance,), {"tracker": kitboard_tracker.Boarded, "package": "kitboard"})
    kit.make_tracker = lambda self, folder: kitboard_tracker.Boarded()
    return kit


IMPORTING, MISSING = "test_importing_it_does_not_import_the_dashboard", "test_a_missing_package_is_a_configuration_error"
RIGHT = """
        try:
            import kitboard
        except ImportError as error:
            raise ConfigError("no kitboard: pip install kitboard") from error
"""


@pytest.mark.parametrize(
    ("first", "imports", "wrong"),
    [
        ("", RIGHT, []),
        ("import kitboard", RIGHT, [IMPORTING]),
        ("", "pass", [MISSING]),
        ("", "import kitboard", [MISSING]),
        ("", RIGHT.replace(": pip install kitboard", ""), [MISSING]),
    ],
    ids=["right", "imports it at the top", "does not look", "raises an ImportError", "does not say what to install"],
)
def test_the_dashboards_package_is_imported_when_a_tracker_is_made_and_not_before(first, imports, wrong, tmp_path, monkeypatch):
    assert list(failing(boarded(tmp_path, monkeypatch, first=first, imports=imports), only=(IMPORTING, MISSING))) == wrong


def test_files_that_the_dashboards_package_keeps_in_the_home_folder_are_named(monkeypatch):
    class InHome(Small):
        def run_ended(self, status):
            (Path.home() / ".cache" / "board").mkdir(parents=True, exist_ok=True)
            (Path.home() / ".cache" / "board" / "log").write_text(status)
            super().run_ended(status)

    check = "test_nothing_is_left_behind"
    unnamed = failing(type("Broken", (SmallConformance,), {"tracker": InHome}), only=(check,))
    assert "files outside the run's directory and the folder that it was given: ['~/.cache/board/log']" in unnamed[check]
    assert failing(type("Named", (SmallConformance,), {"tracker": InHome, "leaves": (".cache/board/*",)}), only=(check,)) == {}


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(TrackerConformance):
        assert getattr(TrackerConformance, name).__doc__.startswith("If this fails, ")


def test_what_is_asked_for_in_seclusion_leaves_no_proxy_to_the_tests_after_it():
    with secluded({}), contextlib.suppress(OSError):
        urllib.request.urlopen("http://metrics.example/run", timeout=5).close()
    asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    with ScriptedServer("ok") as server:
        request = urllib.request.Request(f"{server.base_url()}/chat/completions", data=asked, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
