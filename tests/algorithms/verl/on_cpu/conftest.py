"""Runs of VERL for the tests here.

Four steps, killed after the second one's checkpoint and resumed; the same collecting ahead; one with an adapter and DAPO's group filter; the
article's script; one with its runners on Ray.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
MODEL = ROOT / "examples" / "sql_agent" / "model"
MARK = "AGL_VERL_TEST"
STEPS, KILLED_AFTER = 4, 2
MINUTES = 60.0


class Killed(msgspec.Struct, frozen=True):
    """What the runs left behind."""

    folder: Path
    first: str
    """What the first process said."""
    second: str
    left: list[int]
    """Processes that outlived the kill: by a minute, or, Ray's own agents, until the second process has ended."""


def processes(mark: str) -> list[int]:
    """Ids of processes that were started with that mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # ended meanwhile
            continue
    return found


def is_agent(number: int) -> bool:
    """Whether a process is one of the two with which Ray looks after a node: nothing of a run is in them.

    When Ray is killed they try for a minute to tell its head, which is gone as well, and then end.
    """
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"))
    except OSError:  # ended meanwhile
        return True


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("runs/*/checkpoints/step-??????"))


def train(folder: Path, *options: str) -> list[str]:
    return [str(HERE / "train.py"), str(folder), "--steps", str(STEPS), *options]


def start(command: Sequence[str], mark: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    variables = {**os.environ, **environment, MARK: mark}
    return subprocess.Popen(
        [sys.executable, *command], stdout=log.open("wb"), stderr=subprocess.STDOUT, env=variables, start_new_session=True
    )


def started(command: Sequence[str], mark: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """A process whose Ray is up: Ray gives its own start half a minute, which a busy machine may not be able to keep."""
    for _ in range(4):
        process = start(command, mark, log, **environment)
        while process.poll() is None and b"Started a local Ray instance" not in log.read_bytes():
            time.sleep(0.2)
        if process.poll() is None or b"timed out during startup" not in log.read_bytes():
            break
    return process


def ended(command: Sequence[str], folder: Path, **environment: str) -> str:
    """What a process said that ended well; nothing of it is left."""
    mark, log = folder.name + str(os.getpid()), folder / "said.log"
    try:
        code = started(command, mark, log, **environment).wait(20 * MINUTES)
        assert code == 0, log.read_text()[-6000:]
        return log.read_text()
    finally:
        for number in processes(mark):
            os.kill(number, signal.SIGKILL)


def until(done: Any, process: subprocess.Popen[bytes], log: Path, minutes: float) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + minutes * MINUTES
    while not done():
        assert process.poll() is None, f"the process ended with {process.returncode}:\n{log.read_text()[-6000:]}"
        assert time.monotonic() < end, f"waited {minutes} minutes:\n{log.read_text()[-6000:]}"
        time.sleep(0.2)


def killed_and_resumed(folder: Path, *options: str) -> Killed:
    """A run that is killed after the checkpoint of step `KILLED_AFTER`, and one that goes on with it to the end."""
    mark, logs = folder.name + str(os.getpid()), [folder / "first.log", folder / "second.log"]
    try:
        first = started(train(folder, *options), mark, logs[0])
        until(lambda: f"step-{KILLED_AFTER:06d}" in checkpoints(folder), first, logs[0], 20)
        first.send_signal(signal.SIGKILL)
        first.wait()
        end = time.monotonic() + 60
        while (left := {number: is_agent(number) for number in processes(mark)}) and not all(left.values()) and time.monotonic() < end:
            time.sleep(0.2)
        second = started(train(folder, *options, "--resume"), mark, logs[1])
        code = second.wait(20 * MINUTES)
        assert code == 0, logs[1].read_text()[-6000:]
        now = processes(mark)
        still = [number for number, agent in left.items() if not agent or number in now]
        return Killed(folder, logs[0].read_text(), logs[1].read_text(), still)
    finally:
        for number in processes(mark):
            os.kill(number, signal.SIGKILL)


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return killed_and_resumed(tmp_path_factory.mktemp("verl"))


@pytest.fixture(scope="session")
def lines(killed: Killed) -> list[dict[str, Any]]:
    """The run's metrics, one line per step."""
    return read(killed.folder, "runs/*/metrics.jsonl")


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a run's file."""
    [path] = folder.glob(name)
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path, str], list[dict[str, Any]]]:
    return read


@pytest.fixture(scope="session")
def on_cpu() -> SimpleNamespace:
    """What a script needs to train on the CPU platform: VERL's configuration and the environment; and what runs it to its end."""
    spec = importlib.util.spec_from_file_location("agl_verl_train_on_cpu", HERE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(config=module.config, ENVIRONMENT=module.ENVIRONMENT, ended=ended)


@pytest.fixture(scope="session")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A run that collects ahead, replaces groups without spread and validates each task twice; killed and resumed as well."""
    return killed_and_resumed(tmp_path_factory.mktemp("ahead"), "--ahead")


@pytest.fixture(scope="session")
def steps(killed: Killed) -> list[list[Any]]:
    """The groups of each step with credit assigned, read again from the store."""
    from agl.plugins import Plugins
    from agl.results import Group
    from agl.roles import Roles
    from agl.store.opening import opened
    from agl.transitions import transitions_of

    plugins, roles = Plugins(), Roles("write|rewrite")

    def with_transitions(result: Any) -> Any:
        calls = plugins.assign_credit(result, transitions_of(result.spans, roles.why_not))
        return msgspec.structs.replace(result, transitions=tuple(calls))

    async def read() -> list[list[Any]]:
        with opened(killed.folder / "store.sqlite") as store:
            [run] = [run for run in await store.runs() if run.status == "done"]
            found = []
            for step in range(STEPS):
                results = await store.results(await store.find(run.run_id, mode="train", step=step))
                # A step that was killed and done again has the rollouts of both; those of the resumed one came last.
                groups: dict[str, list[Any]] = {}
                for result in map(with_transitions, results):
                    groups.setdefault(result.rollout.group_id, []).append(result)
                found.append([Group(task=group[0].task, results=tuple(group[-4:])) for group in groups.values()])
            return found

    return asyncio.run(read())
