"""Recorder: spans of calls on their way to the store, many to one write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

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
        self._taken: list[Span | Callable[[], Span]] = []
        self._added = self._written = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """How many must be written for each who waits."""
        self._hurry = asyncio.Event()
        self._flush: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    def add(self, span: Span | Callable[[], Span]) -> None:
        """Take a span, or what makes one: it is made when the running task has let go. It is in the store when `written` has returned."""
        self._taken.append(span)
        self._added += 1
        if self._flush is None or self._flush.done():
            self._flush = asyncio.ensure_future(self._write())

    async def written(self) -> None:
        """Wait until all that was taken by now is in the store.

        Raises:
            StoreError: it could not be stored, now or before.
        """
        if self._written < self._added:
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

    async def _write(self) -> None:
        """Store what has come up; calls that end meanwhile go into the next write."""
        while self._taken:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), WRITE_EVERY)
            self._hurry.clear()
            taken, self._taken = self._taken, []
            try:
                await self._store.add_spans(await self._made(taken))
            except Exception as error:  # told to whoever closes an attempt: no call is lost silently
                self._broken = self._broken or error
            self._written += len(taken)
            self._wake()

    def _wake(self) -> None:
        """Tell those whose spans are written."""
        for wanted, done in self._waiting:
            if wanted <= self._written and not done.done():
                done.set_result(None)
        self._waiting = [(wanted, done) for wanted, done in self._waiting if wanted > self._written]
        if self._waiting:
            self._hurry.set()

    async def _made(self, taken: Sequence[Span | Callable[[], Span]]) -> list[Span]:
        """The spans themselves; one that cannot be made takes none of the others with it."""
        spans: list[Span] = []
        for item in taken:
            try:
                spans.append(item if isinstance(item, Span) else item())
            except Exception as error:
                self._broken = self._broken or error
            await asyncio.sleep(0)  # calls go on in between
        return spans
