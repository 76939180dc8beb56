"""One run of VERL for all tests here: three steps, killed after the second one's checkpoint, and resumed to four."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
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
    """Processes that outlived the kill by more than a minute."""


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


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("runs/*/checkpoints/step-??????"))


def start(folder: Path, mark: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "train.py"), str(folder), "--steps", str(STEPS), *options]
    return subprocess.Popen(
        command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env={**os.environ, MARK: mark}, start_new_session=True
    )


def started(folder: Path, mark: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """A process whose Ray is up: Ray gives its own start half a minute, which a busy machine may not be able to keep."""
    for _ in range(4):
        process = start(folder, mark, log, *options)
        while process.poll() is None and b"Started a local Ray instance" not in log.read_bytes():
            time.sleep(0.2)
        if process.poll() is None or b"timed out during startup" not in log.read_bytes():
            break
    return process


def until(done: Any, process: subprocess.Popen[bytes], log: Path, minutes: float) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + minutes * MINUTES
    while not done():
        assert process.poll() is None, f"the process ended with {process.returncode}:\n{log.read_text()[-6000:]}"
        assert time.monotonic() < end, f"waited {minutes} minutes:\n{log.read_text()[-6000:]}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("verl")
    mark, logs = folder.name + str(os.getpid()), [folder / "first.log", folder / "second.log"]
    try:
        first = started(folder, mark, logs[0])
        until(lambda: f"step-{KILLED_AFTER:06d}" in checkpoints(folder), first, logs[0], 20)
        first.send_signal(signal.SIGKILL)
        first.wait()
        end = time.monotonic() + 60
        while processes(mark) and time.monotonic() < end:
            time.sleep(0.2)
        left = processes(mark)
        second = started(folder, mark, logs[1], "--resume")
        code = second.wait(20 * MINUTES)
        assert code == 0, logs[1].read_text()[-6000:]
        yield Killed(folder, logs[0].read_text(), logs[1].read_text(), left)
    finally:
        for number in processes(mark):
            os.kill(number, signal.SIGKILL)


@pytest.fixture(scope="session")
def lines(killed: Killed) -> list[dict[str, Any]]:
    """The run's metrics, one line per step."""
    [path] = killed.folder.glob("runs/*/metrics.jsonl")
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


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
