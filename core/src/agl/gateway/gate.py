"""The gate before the upstreams: closed while weights are exchanged. New calls wait; calls that are on their way end first."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Generator

from agl.errors import GatewayError
from agl.gateway.problems import Problem

PAUSE_SECONDS = 300.0
"""Longest that a call waits for a gate to open, and that one waits for calls to end."""


class Paused(Problem):
    """A call that has waited for too long."""


class Gate:
    """Counts the calls to each model, and holds new ones up while it is paused.

    Args:
        patience: seconds that a call waits at most.
    """

    def __init__(self, patience: float = PAUSE_SECONDS) -> None:
        self._patience = patience
        self._closed: dict[str | None, int] = {}
        """How many keep a model's gate closed; None is that of all models."""
        self._running: Counter[str] = Counter()
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def passed(self, model: str) -> AsyncGenerator[None]:
        """Around a call: it waits here while the gate is closed.

        Raises:
            Paused: the gate stayed closed for too long.
        """
        if self._is_closed(model):
            await self._open(model)
        self._running[model] += 1
        try:
            yield
        finally:
            self._running[model] -= 1
            self._tell()

    async def _open(self, model: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                while self._is_closed(model):
                    await self._changed.wait()
        except TimeoutError:
            message = f"calls to the model `{model}` have been paused for {self._patience:g} s, longer than a call waits; try again"
            raise Paused(503, message, "paused", infrastructure=True) from None

    @contextlib.contextmanager
    def paused(self, models: Collection[str] | None = None) -> Generator[None]:
        """Let no new call through to these models (all of them when none are named) until the end of the block."""
        names: list[str | None] = [None] if models is None else list(models)
        for name in names:
            self._closed[name] = self._closed.get(name, 0) + 1
        try:
            yield
        finally:
            for name in names:
                self._closed[name] -= 1
            self._tell()

    async def drained(self, models: Collection[str] | None = None, timeout: float = PAUSE_SECONDS) -> None:
        """Return when no call to these models is on its way.

        Raises:
            GatewayError: some are still, after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._left(models):
                    await self._changed.wait()
        except TimeoutError:
            left = self._left(models)
            raise GatewayError(
                f"{sum(left.values())} calls have not ended within {timeout:g} s: {left}; give them more time, or end them"
            ) from None

    def _left(self, models: Collection[str] | None) -> dict[str, int]:
        return {name: count for name, count in self._running.items() if count and (models is None or name in models)}

    def _is_closed(self, model: str) -> bool:
        return bool(self._closed.get(None) or self._closed.get(model))

    def _tell(self) -> None:
        """Wake all who wait; each looks again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
