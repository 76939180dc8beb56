"""Recorder: spans of calls on their way to the store, many to one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agl.spans import Span
from agl.store.base import Store


class Recorder:
    """Writes spans in the background, in the order in which they came.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._taken: list[Span | Callable[[], Span]] = []
        self._flush: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    def add(self, span: Span | Callable[[], Span]) -> None:
        """Take a span, or what makes one: it is made when the running task has let go. It is in the store when `written` has returned."""
        self._taken.append(span)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.ensure_future(self._write())

    async def written(self) -> None:
        """Wait until all that was taken is in the store.

        Raises:
            StoreError: it could not be stored, now or before.
        """
        if self._flush is not None:
            await asyncio.shield(self._flush)
        if self._broken is not None:
            raise self._broken

    async def stop(self) -> None:
        """Wait for what is being written; what went wrong was told to those who asked."""
        if self._flush is not None:
            await self._flush

    async def _write(self) -> None:
        """Store what has come up; calls that end meanwhile go into the next write."""
        while self._taken:
            taken, self._taken = self._taken, []
            try:
                await self._store.add_spans(self._made(taken))
            except Exception as error:  # told to whoever closes an attempt: no call is lost silently
                self._broken = self._broken or error

    def _made(self, taken: Sequence[Span | Callable[[], Span]]) -> list[Span]:
        """The spans themselves; one that cannot be made takes none of the others with it."""
        spans: list[Span] = []
        for item in taken:
            try:
                spans.append(item if isinstance(item, Span) else item())
            except Exception as error:
                self._broken = self._broken or error
        return spans
