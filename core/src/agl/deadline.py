"""Deadline: the time that one attempt may take. It stands still while the attempt's calls are held up for a change of weights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Self


class Deadline:
    """Around an agent's work: cancels it when its time is over, as `asyncio.timeout` does, and knows of calls that wait for nothing of its doing.

    Runner and gateway share one event loop, wherever the agent itself runs; all of this is called there.

    Args:
        seconds: that the work may take; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.held_seconds = 0.0
        """How long calls were held up while the time was running, so far."""
        self._left = seconds
        self._timeout: asyncio.Timeout | None = None
        self._over = False
        self._holds = 0
        self._held_since: float | None = None

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.Timeout(None)
        await self._timeout.__aenter__()
        if self._holds:  # a plugin called before the agent began
            self._held_since = _now()
        else:
            self._go_on()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> bool | None:
        assert self._timeout is not None
        self._count()
        self._over = True
        return await self._timeout.__aexit__(kind, error, where)

    @property
    def expired(self) -> bool:
        """Whether the work was cancelled since its time was over."""
        return self._timeout is not None and self._timeout.expired()

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Around the time in which a call is held up: it does not count. Several at once count once."""
        self._holds += 1
        if self._holds == 1:
            self._stand_still()
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds:
                self._count()
                self._go_on()

    def _is_running(self) -> bool:
        return self._timeout is not None and not self._over and not self._timeout.expired()

    def _stand_still(self) -> None:
        if not self._is_running():
            return
        assert self._timeout is not None
        self._held_since = _now()
        if (when := self._timeout.when()) is not None:
            self._left = when - self._held_since
            self._timeout.reschedule(None)

    def _go_on(self) -> None:
        if self._is_running() and self._left is not None:
            assert self._timeout is not None
            self._timeout.reschedule(_now() + self._left)

    def _count(self) -> None:
        if self._held_since is not None:
            self.held_seconds += _now() - self._held_since
            self._held_since = None


def _now() -> float:
    return asyncio.get_running_loop().time()
