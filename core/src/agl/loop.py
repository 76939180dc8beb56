"""The event loop of a run: in a thread of its own, stopped cleanly by Ctrl-C, with a quiet garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from agl.context import ContextExecutor

T = TypeVar("T")


def run_in_loop(main: Callable[[], Coroutine[Any, Any, T]], say: Callable[[str], None]) -> T:
    """Run a coroutine on a loop in a thread of its own, so that it works in notebooks too.

    Args:
        main: makes the coroutine.
        say: takes a line for the user.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the coroutine was cancelled and has ended; a second Ctrl-C raises at once.
    """
    loop_ready: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []
    outcome: list[T] = []
    raised: list[BaseException] = []
    over = threading.Event()  # not the thread's own end: an interrupted `Thread.join` takes the thread for ended

    async def work() -> T:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ContextExecutor())
        task = asyncio.current_task()
        assert task is not None
        loop_ready.append((loop, task))
        return await main()

    def serve() -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                outcome.append(runner.run(work()))
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=serve, name="agl-loop", daemon=True)
    thread.start()
    interrupted = False
    while not over.is_set():
        try:
            over.wait(0.2)
        except KeyboardInterrupt:
            if interrupted or not loop_ready:
                raise
            interrupted = True
            say("stopping: Ctrl-C again to stop at once")
            loop, task = loop_ready[0]
            loop.call_soon_threadsafe(task.cancel)
    if interrupted:
        raise KeyboardInterrupt
    if raised:
        raise raised[0]
    return outcome[0]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextlib.contextmanager
def raises_here(work: asyncio.Task[None]) -> Generator[None]:
    """End the code inside when the runners break, with their error."""
    here = asyncio.current_task()
    assert here is not None
    failed: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)
            here.cancel()

    work.add_done_callback(done)
    try:
        yield
    except asyncio.CancelledError:
        if failed:
            here.uncancel()
            raise failed[0] from None
        raise


GARBAGE = (50_000, 20, 50)
"""Thresholds of the garbage collector during a run. An answer with its tokens is a thousand objects, none of them in a cycle: with Python's
own thresholds looking through them takes half of the gateway's time."""


@contextlib.contextmanager
def frozen_garbage() -> Generator[None]:
    """Keep what is loaded by now out of the garbage collector, and look for new cycles more rarely: scanning a million objects of
    frameworks again and again costs more than the rollouts make."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(*GARBAGE)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
