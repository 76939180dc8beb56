"""What the kits share for running: a deadline for each check, made-up records, and a look at what was left behind."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agl.context import ContextExecutor
from agl.rollouts import Rollout, new_id
from agl.spans import Span, SpanKind, new_span_id, new_trace_id
from agl.store.base import RunRecord
from agl.tasks import Mode, Task
from agl.testing.expected import ConformanceError

CHECK_SECONDS = 60.0
"""How long one check may take: a driver that hangs is a driver that fails."""
RUN = "run-kit"
_numbers = itertools.count()


def run_check(check: Coroutine[Any, Any, None], seconds: float = CHECK_SECONDS) -> None:
    """Run a check on an event loop of its own, as the Trainer's loop is.

    Raises:
        ConformanceError: it did not end in time.
    """

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ContextExecutor())
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await check
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ConformanceError(f"it did not end within {seconds:g} s: something waits for ever") from error

    asyncio.run(main())


def make_record(run_id: str = RUN, **values: Any) -> RunRecord:
    """A run, as the Trainer keeps it."""
    known: dict[str, Any] = {"run_id": run_id, "created_at": time.time(), "status": "running", "step": 0, "seed": 0, "config": {}}
    started: dict[str, Any] = {"command": [], "folder": "", "directory": ""}
    return RunRecord(**{**known, **started, **values})


def make_rollout(data: dict[str, Any] | None = None, *, mode: Mode = Mode.TRAIN, **values: Any) -> Rollout:
    """A rollout to ask for, on a task of its own."""
    task = Task(task_id=f"task-{next(_numbers)}", data={"input": "?"} if data is None else data, mode=mode)
    known: dict[str, Any] = {"rollout_id": new_id("ro"), "run_id": RUN, "task": task, "group_id": "group", "created_at": time.time()}
    return Rollout(**{**known, **values})


def make_span(rollout_id: str, attempt_id: str, **values: Any) -> Span:
    """A span of an attempt."""
    known: dict[str, Any] = {"name": "work", "kind": SpanKind.OPERATION, "started_at": 1.0, "ended_at": 2.0}
    ids: dict[str, Any] = {"span_id": new_span_id(), "trace_id": new_trace_id(), "rollout_id": rollout_id, "attempt_id": attempt_id}
    return Span(**{**known, **ids, **values})


async def error_of(call: Awaitable[Any]) -> Exception | None:
    """What a call raises; None when it does not."""
    try:
        await call
    except Exception as error:
        return error
    return None


def left_behind(before: set[threading.Thread], seconds: float = 5.0) -> list[str]:
    """Names of threads that were not there before and are still there after `seconds`; idle ones of pools, and loops kept for later, are none."""
    until = time.monotonic() + seconds
    while found := sorted(thread.name for thread in set(threading.enumerate()) - before if thread.is_alive() and not _idle(thread)):
        if time.monotonic() > until:
            return found
        time.sleep(0.02)
    return []


def _idle(thread: threading.Thread) -> bool:
    return thread.name.startswith(("asyncio_", "agl-agent", "agl-loop"))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for what other code brings about; whether it came in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
