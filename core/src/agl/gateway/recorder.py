"""Recorder: spans of calls on their way to the store, many to one write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from agl.spans import Span
from agl.store.base import Store

WRITE_EVERY = 0.02
"""Seconds between two writes when nobody waits for one: a commit costs as much as a call, and would hold up the next one."""


class Recorder:
    """Writes spans in the background, in the order in which they came.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: list[Span] = []
        self._added = self._done = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """How many must be done for each who waits."""
        self._hurry = asyncio.Event()
        self._flush: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    def add(self, span: Span | Callable[[], Span]) -> None:
        """Take a span, or what makes one: it is made as soon as the running task has let go. It is in the store when `written` has returned."""
        self._added += 1
        asyncio.get_running_loop().call_soon(self._make, span)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.ensure_future(self._write())

    async def written(self) -> None:
        """Wait until all that was taken by now is in the store.

        Raises:
            StoreError: it could not be stored, now or before.
        """
        if self._done < self._added:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append((self._added, done))
            self._hurry.set()
            await done
        if self._broken is not None:
            raise self._broken

    async def stop(self) -> None:
        """Wait for what is being written; what went wrong was told to those who asked."""
        self._hurry.set()
        if self._flush is not None:
            await self._flush

    def _make(self, span: Span | Callable[[], Span]) -> None:
        """The span itself, at once: an answer that is kept until the next write is out of the processor's cache by then."""
        try:
            self._made.append(span if isinstance(span, Span) else span())
        except Exception as error:  # told to whoever closes an attempt; it takes no other span with it
            self._broken = self._broken or error
            self._done += 1

    async def _write(self) -> None:
        """Store what has come up; calls that end meanwhile go into the next write."""
        while self._done < self._added:
            await asyncio.sleep(0)  # what was added is made
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), WRITE_EVERY)
            self._hurry.clear()
            made, self._made = self._made, []
            try:
                if made:
                    await self._store.add_spans(made)
            except Exception as error:  # told to whoever closes an attempt: no call is lost silently
                self._broken = self._broken or error
            self._done += len(made)
            self._wake()

    def _wake(self) -> None:
        """Tell those whose spans are done."""
        for wanted, future in self._waiting:
            if wanted <= self._done and not future.done():
                future.set_result(None)
        self._waiting = [(wanted, future) for wanted, future in self._waiting if wanted > self._done]
        if self._waiting:
            self._hurry.set()
