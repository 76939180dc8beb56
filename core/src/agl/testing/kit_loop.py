"""The event loop of the framework checks: one for the process, since frameworks keep clients that belong to a loop."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import traceback
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from agl.context import ContextExecutor
from agl.testing.expected import ConformanceError

T = TypeVar("T")

CHECK_SECONDS = 60.0
"""How long one check may take."""


class _Loop:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ContextExecutor())
        self.thread = threading.Thread(target=self.loop.run_forever, name="agl-checks", daemon=True)
        self.thread.start()

    def where(self) -> str:
        """What the loop's thread is doing now."""
        frame = sys._current_frames().get(self.thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
        return "".join(traceback.format_stack(frame)[-6:]) if frame else ""


_loop = functools.cache(_Loop)


def run(work: Coroutine[Any, Any, T], seconds: float = CHECK_SECONDS) -> T:
    """Run a coroutine on the checks' loop, from a thread without one or with another.

    Raises:
        ConformanceError: it did not end in time; the message says where the loop is stuck.
    """
    home = _loop()
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, home.loop)
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise  # the check's own
        where = home.where()
        _loop.cache_clear()  # what is stuck there stays there
        future.cancel()
        raise ConformanceError(
            f"the check did not end within {seconds:g} s; the event loop was here (most recent call last):\n{where}"
        ) from None
