"""The event loop of runs: in a thread of its own, stopped cleanly by Ctrl-C, with a quiet garbage collector.

The loop outlives the run: clients that frameworks cache are bound to the loop that they were first used on, and a later run in the same process
gets it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
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
    home = _idle.pop() if _idle else _Home()
    work = _Work(main)
    home.start(work)
    interrupted = False
    while not work.over.is_set():
        try:
            work.over.wait(0.2)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            say("stopping: Ctrl-C again to stop at once")
            home.cancel()
    _idle.append(home)
    if interrupted:
        raise KeyboardInterrupt
    if work.raised is not None:
        raise work.raised
    return work.outcome[0]


class _Work:
    """A coroutine and what becomes of it."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._main = main
        self.outcome: list[Any] = []
        self.raised: BaseException | None = None
        self.over = threading.Event()

    async def run(self) -> None:
        """Run it, and end all tasks that it leaves behind."""
        executor = ContextExecutor()
        asyncio.get_running_loop().set_default_executor(executor)
        try:
            self.outcome.append(await self._main())
        except BaseException as error:
            self.raised = self.raised or error
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            executor.shutdown()


class _Home:
    """A loop in a thread that ends with the process."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._work: _Work | None = None
        self._task: asyncio.Task[None] | None = None
        threading.Thread(target=self._serve, name="agl-loop", daemon=True).start()

    def start(self, work: _Work) -> None:
        """Begin with a coroutine; its `over` is set when it and its tasks have ended."""
        self._work = work
        self._loop.call_soon_threadsafe(self._begin, work)

    def cancel(self) -> None:
        """Cancel it, wherever it is."""
        self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())

    def _begin(self, work: _Work) -> None:
        self._task = self._loop.create_task(work.run())
        self._task.add_done_callback(self._end)

    def _end(self, _: asyncio.Task[None]) -> None:
        assert self._work is not None
        over, self._work, self._task = self._work.over, None, None  # what the run gave is not kept here
        over.set()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except BaseException as error:  # asyncio lets SystemExit and KeyboardInterrupt of any task end the loop
                if self._work is not None:
                    self._work.raised = error
                self.cancel()


_idle: list[_Home] = []
"""Loops that no run uses."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads do not come along


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


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
