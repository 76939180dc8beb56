"""How an attempt ends: failures, stops, and what others notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from agl.rollouts import Failure
from agl.testing.bench import Bench, succeeded, tasks_in
from agl.testing.expected import require
from agl.testing.framework_checks import on_bench
from agl.testing.reply import Reply

SLOW_SECONDS = 0.6
LOOP_TRIES = 4
"""A busy machine makes pauses, too: now and then, not in every try."""
STOP_SECONDS = 4.0
SETTLE_SECONDS = 0.3


@on_bench()
async def an_exception_fails_its_attempt_alone(bench: Bench) -> None:
    """If this fails, an exception inside the agent is swallowed (the attempt counts as a success), loses its traceback, or takes other attempts with it."""
    bench.model.refuse = lambda body: Reply("broken on purpose", status=400) if "task-2" in tasks_in(body) else None
    good, bad, other = await bench.run([1, 2, 3])
    succeeded(good)
    succeeded(other)
    error = (bad.rollout.attempt.error or "") if bad.rollout.attempt else ""
    require(
        bad.failure == Failure.AGENT,
        f"the endpoint refused a call with status 400, and the attempt ended with failure {bad.failure}: {error}",
    )
    require("Traceback (most recent call last)" in error, f"the attempt's error has no traceback: {error}")
    require("broken on purpose" in error, f"the attempt's error does not say what the endpoint said: {error}")


@on_bench()
async def a_stopped_rollout_stops_its_work(bench: Bench) -> None:
    """If this fails, an attempt that is stopped (a deadline, Ctrl-C) goes on inside the framework.

    It keeps its connection to the model, calls it again, or hides the cancellation: let `asyncio.CancelledError` through.
    """
    bench.model.delay = STOP_SECONDS
    work = asyncio.ensure_future(_attempt(bench))
    await _until(lambda: bool(bench.endpoint.requests), work)
    await asyncio.sleep(SETTLE_SECONDS)  # parallel branches call, too
    asked = len(bench.endpoint.requests)
    require(asked, "the agent never called the attempt's model")
    work.cancel()
    await asyncio.wait([work], timeout=STOP_SECONDS / 2)
    require(work.done(), "the agent went on after it was cancelled, until the model had answered")
    require(work.cancelled(), "the agent was cancelled, and the cancellation was swallowed")
    await _until(lambda: len(bench.endpoint.abandoned) >= asked, None, STOP_SECONDS / 2)
    waiting = asked - len(bench.endpoint.abandoned)
    require(waiting <= 0, f"{waiting} calls of the attempt still wait for the model after it was cancelled")
    later = len(bench.endpoint.requests) + len(bench.users.requests) - asked
    require(later == 0, f"the framework made {later} more calls after its attempt was cancelled")


async def _attempt(bench: Bench) -> None:
    with bench.attempt():
        await bench.call()


@on_bench()
async def the_event_loop_is_never_blocked(bench: Bench) -> None:
    """If this fails, the agent holds the event loop while it waits, so that all other attempts stand still: await, or use `asyncio.to_thread`."""
    await _attempt(bench)  # what is imported or built at first use is not counted
    longest = math.inf
    for _ in range(LOOP_TRIES):
        longest = min(longest, await _longest_pause(bench))
        if longest < SLOW_SECONDS / 2:
            break
    require(longest < SLOW_SECONDS / 2, f"the event loop stood still for {longest:.2f} s while the model took {SLOW_SECONDS} s to answer")


async def _longest_pause(bench: Bench) -> float:
    """Seconds that the event loop stands still during an attempt whose first call takes a while."""
    bench.model.first_delay = SLOW_SECONDS
    pauses: list[float] = []
    beat = asyncio.ensure_future(_beat(pauses))
    await asyncio.sleep(0.05)
    try:
        await _attempt(bench)
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    return max(pauses)


async def _beat(pauses: list[float]) -> None:
    while True:
        before = time.monotonic()
        try:
            await asyncio.sleep(0.01)
        finally:
            pauses.append(time.monotonic() - before)


async def _until(condition: Callable[[], bool], work: asyncio.Future[None] | None, seconds: float = 30.0) -> None:
    """Wait until the condition holds; raises what the work raised before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                if work is not None and work.done():
                    await work
                    break
                await asyncio.sleep(0.01)
