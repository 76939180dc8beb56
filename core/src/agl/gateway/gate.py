"""The gate before the upstreams: closed while weights are exchanged. New calls wait; calls that are on their way end first.

What a call waits is not its attempt's time: whoever passes says what to enter meanwhile. An engine that holds calls up by itself does so behind
the gate, which is told of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import AbstractContextManager

from agl.errors import GatewayError
from agl.gateway.problems import Problem

PAUSE_SECONDS = 300.0
"""Longest that a call waits for a gate to open, and that one waits for calls to end."""


Held = Callable[[], AbstractContextManager[object]]
"""Entered while a call is held up, and left when it goes on."""


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
        self._stalled: Counter[str] = Counter()
        """How many engines behind the gate hold up what comes for a model."""
        self._running: set[_Passage] = set()
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def passed(self, model: str, held: Held = contextlib.nullcontext) -> AsyncGenerator[None]:
        """Around a call: it waits here while the gate is closed.

        Args:
            held: entered while the call is held up, here or by an engine behind the gate.

        Raises:
            Paused: the gate stayed closed for too long.
        """
        if self._is_closed(model):
            with held():
                await self._open(model)
        passage = _Passage(model, held)
        self._running.add(passage)
        if self._stalled[model]:
            passage.hold()
        try:
            yield
        finally:
            passage.go_on()
            self._running.discard(passage)
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

    @contextlib.contextmanager
    def stalled(self, models: Collection[str], *, all_of_them: bool = True) -> Generator[None]:
        """An engine holds up the calls to these models until the end of the block, by itself.

        Args:
            all_of_them: also those that are on their way already; else only those that come.
        """
        self._stalled.update(models)
        for passage in self._of(models) if all_of_them else ():
            passage.hold()
        try:
            yield
        finally:
            self._stalled.subtract(models)
            for passage in self._of(models):
                if not self._stalled[passage.model]:
                    passage.go_on()

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
        return dict(Counter(passage.model for passage in self._of(models)))

    def _of(self, models: Collection[str] | None) -> list[_Passage]:
        return [passage for passage in self._running if models is None or passage.model in models]

    def _is_closed(self, model: str) -> bool:
        return bool(self._closed.get(None) or self._closed.get(model))

    def _tell(self) -> None:
        """Wake all who wait; each looks again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Passage:
    """A call behind the gate."""

    def __init__(self, model: str, held: Held) -> None:
        self.model, self._held = model, held
        self._stack: contextlib.ExitStack | None = None

    def hold(self) -> None:
        if self._stack is None:
            self._stack = contextlib.ExitStack()
            self._stack.enter_context(self._held())

    def go_on(self) -> None:
        if self._stack is not None:
            self._stack.close()
            self._stack = None
