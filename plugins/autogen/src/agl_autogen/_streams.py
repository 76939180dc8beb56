"""Streams inside a run, one step at a time: what consumes a stream keeps its own span and role between the steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from agl_autogen._tracing import Run

SOFT_SECONDS = 0.2
"""How long what was asked to stop may take to do so by itself."""
HARD_SECONDS = 0.5
"""How long a cancelled task is waited for; what holds on longer is abandoned."""

_END: Any = object()
Step = Callable[[Run, Any], Awaitable[Any]]


async def followed(run: Run, stream: Any, see: Callable[[Any], None], step: Step | None = None) -> AsyncGenerator[Any, None]:
    """The items of a stream, each made inside the run and shown to `see`; the run ends with the stream."""
    error: BaseException | None = None
    try:
        while True:
            with run:
                item = await (step or _next)(run, stream)
            if item is _END:
                break
            see(item)
            yield item
    except GeneratorExit:  # nobody wants the rest
        raise
    except BaseException as raised:
        error = raised
        raise
    finally:
        with run, contextlib.suppress(RuntimeError):  # a step that was abandoned still runs
            await stream.aclose()
        ended(run, error)


def ended(run: Run, error: BaseException | None = None, **attributes: Any) -> None:
    """End a run; with one that was cancelled ends what it has started and does not wait for."""
    if isinstance(error, asyncio.CancelledError):
        run.trace.cancel(below=run)
    run.end(error, **attributes)


async def in_a_task(run: Run, stream: Any) -> Any:
    """A step that can be stopped: a team that is cancelled waits for its members' model calls, however long they take."""

    def stop() -> None:
        run.trace.cancel(below=run)

    return await stoppable(_next(run, stream), stop)


async def stoppable(work: Coroutine[Any, Any, Any], stop: Callable[[], None]) -> Any:
    """The result of `work`; when this is cancelled, `stop` is called, and what does not end by that is cancelled, too.

    A team that is cancelled while it shuts its runtime down leaves the runtime's task behind.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([task], timeout=SOFT_SECONDS)
        task.cancel()
        await asyncio.wait([task], timeout=HARD_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # of the stop; nobody asks for it
        elif task.done():
            task.result()  # raises the cancellation with the place that it happened at
        raise
    return task.result()


async def _next(run: Run, stream: Any) -> Any:
    return await anext(stream, _END)
