"""Recorder: spans of calls on their way to the store, many to one write."""

from __future__ import annotations

import asyncio

from agl.spans import Span
from agl.store.base import Store


class Recorder:
    """Writes spans in the background, in the order in which they came.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spans: list[Span] = []
        self._flush: asyncio.Task[None] | None = None
        self._broken: Exception | None = None

    def add(self, span: Span) -> None:
        """Take a span; it is in the store when `written` has returned."""
        self._spans.append(span)
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
        while self._spans:
            spans, self._spans = self._spans, []
            try:
                await self._store.add_spans(spans)
            except Exception as error:  # told to whoever closes an attempt: no call is lost silently
                self._broken = self._broken or error
