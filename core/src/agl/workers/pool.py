"""Pool: as many workers as there are runners; and the executor that runs attempts in them."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from agl.context import ActiveAttempt
from agl.errors import ConfigError, WorkerError
from agl.executors import Executor
from agl.plugins import Plugins
from agl.runner import AttemptRunner, BoundAgent, Run, ThreadExecutor
from agl.workers.parcel import Parcel, pack
from agl.workers.remote import Link, Remote

Hire = Callable[[], Awaitable[Link]]


class Pool:
    """Workers, at most so many; one that is not fit for another attempt is replaced when it is needed.

    Args:
        hire: starts a worker.
        most: how many there may be.
    """

    def __init__(self, hire: Hire, most: int) -> None:
        self._hire = hire
        self._room = asyncio.Semaphore(most)
        self._all: set[Remote] = set()
        self._idle: list[Remote] = []

    async def fill(self, count: int) -> None:
        """Start workers, all at once, and wait for them.

        Raises:
            ConfigError: one cannot have the agent.
        """
        found = await asyncio.gather(*(self._new() for _ in range(count)), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error if not isinstance(error, WorkerError) else ConfigError(f"a worker could not be started: {error}")
            self._idle.append(error)

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncGenerator[Remote]:
        """A free worker for one attempt, a new one where needed.

        Raises:
            WorkerError: it could not be started.
        """
        async with self._room:
            remote = self._idle.pop() if self._idle else await self._new()
            try:
                yield remote
            finally:
                if remote.free:
                    self._idle.append(remote)
                else:
                    await self._end(remote)

    async def _new(self) -> Remote:
        remote = Remote(await self._hire())
        self._all.add(remote)
        try:
            problem = await remote.loaded()
        except BaseException:
            await self._end(remote)
            raise
        if problem is not None:
            await self._end(remote)
            raise ConfigError(f"a worker process cannot load the agent:\n{problem}")
        return remote

    async def _end(self, remote: Remote) -> None:
        self._all.discard(remote)
        await remote.kill()

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(self._end(remote) for remote in list(self._all)))


class WorkerExecutor(ThreadExecutor):
    """Runs a run's rollouts in workers; the Trainer's process does all but run the agent. See `Executor`.

    A transport derives from it and defines `make_link`.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.parcel = pack(self.agent, self.plugins, self.name)
        self.pool = Pool(lambda: self.hire(self.parcel), self.n_runners)
        self._attempts = _WorkerAttempts(self, self.pool)

    @classmethod
    def check(cls, agent: BoundAgent, plugins: Plugins) -> None:
        pack(agent, plugins, cls.name)

    async def start(self) -> None:
        await self.pool.fill(self.n_runners)

    async def stop(self) -> None:
        await self.pool.close()

    @abstractmethod
    def make_link(self) -> Link:
        """The way to a worker that is not started yet."""

    async def hire(self, parcel: Parcel) -> Link:
        """Start a worker, which then tells that it has loaded the parcel.

        Raises:
            WorkerError: it cannot be started.
        """
        link = self.make_link()
        try:
            await link.open(parcel)
        except BaseException:
            await link.kill()
            raise
        return link


class _WorkerAttempts(AttemptRunner):
    def __init__(self, executor: Executor, pool: Pool) -> None:
        super().__init__(executor)
        self._pool = pool

    @contextlib.asynccontextmanager
    async def place(self, attempt: ActiveAttempt) -> AsyncGenerator[Run]:
        """A worker, ready before the attempt's time begins."""
        async with self._pool.worker() as remote:
            await remote.begin(attempt)
            yield lambda: remote.end(attempt)
