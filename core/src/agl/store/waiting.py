"""Waiting for what other coroutines change: woken by an event, never by spinning, and no change is missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Signal:
    """Wakes coroutines of one or several event loops.

    `count` grows with every change: who reads it before looking, and waits from there, misses nothing in between.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: set[Waiter] = set()

    def notify(self) -> None:
        """Something changed."""
        self.count += 1
        for waiter in list(self._waiters):
            _wake(waiter)

    async def wait(self, seen: int, timeout: float) -> None:
        """Return when the count is no longer `seen`, or after `timeout` seconds."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiters.add(waiter)
        try:
            if self.count == seen:
                async with asyncio.timeout(timeout):
                    await waiter[1].wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)


class Watch:
    """Rollouts of which one waits until all have ended."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.left = set(ids)
        self._waiter: Waiter = (asyncio.get_running_loop(), asyncio.Event())

    def ended(self, ids: Iterable[str]) -> None:
        """These have ended; may be called from any thread."""
        self.left.difference_update(ids)
        if not self.left:
            _wake(self._waiter)

    async def wait(self, timeout: float) -> None:
        """Until none is left, or for `timeout` seconds."""
        if self.left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._waiter[1].wait()


def _wake(waiter: Waiter) -> None:
    loop, event = waiter
    with contextlib.suppress(RuntimeError):  # its loop is closed
        loop.call_soon_threadsafe(event.set)
