"""The executor `ray`: each runner is a process of `agl.workers` on some machine of a Ray cluster, behind an actor that passes on what goes
between it and the Trainer.

The agent never runs in the actor itself: what it breaks is killed with its process group, as on one machine, and the actor reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from agl.errors import WorkerError
from agl.plugins import Plugins
from agl.runner import BoundAgent
from agl.workers.parcel import Parcel
from agl.workers.pool import WorkerExecutor
from agl.workers.process import ProcessLink
from agl.workers.remote import Link
from agl.workers.wire import Order
from agl_ray.cluster import check_address, check_gateway, join

KILL_SECONDS = 5.0
"""How long an actor may take to end its worker; then it is killed itself, and what it has started with it."""


class RayExecutor(WorkerExecutor):
    """Runs a run's rollouts in `n_runners` processes, spread evenly over the machines of a Ray cluster. See `Executor`."""

    name = "ray"
    after_algorithm = True  # VERL starts or joins Ray with settings of its own
    _joined = False

    @classmethod
    def check(cls, agent: BoundAgent, plugins: Plugins) -> None:
        super().check(agent, plugins)
        check_address()

    async def start(self) -> None:
        self._joined = await asyncio.to_thread(join)
        check_gateway(self.gateway.url)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self._joined:
            await asyncio.to_thread(ray.shutdown)

    def make_link(self) -> Link:
        return RayLink()


class Host:
    """An actor with one worker. Its methods are those of `Link`."""

    def __init__(self) -> None:
        self._link = ProcessLink()
        self._told: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None

    async def open(self, parcel: Parcel) -> None:
        """Start the worker."""
        await self._link.open(parcel)
        self._pump = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        try:
            while True:
                self._told.put_nowait(await self._link.event())
        except WorkerError as error:
            self._told.put_nowait(str(error))

    async def order(self, order: Order) -> None:
        """Pass on an attempt."""
        await self._link.order(order)

    async def stop(self) -> None:
        """Pass on that the agent must stop."""
        await self._link.stop()

    async def events(self) -> list[bytes | str]:
        """What the worker has told since, at least one thing; a text says how it ended."""
        found = [await self._told.get()]
        while not self._told.empty():
            found.append(self._told.get_nowait())
        return found

    async def kill(self) -> None:
        """End the worker."""
        if self._pump is not None:
            self._pump.cancel()
        await self._link.kill()


class RayLink(Link):
    """A worker behind an actor."""

    def __init__(self) -> None:
        self._actor: Any = None
        self._asked: Any = None
        self._told: list[bytes | str] = []

    async def open(self, parcel: Parcel) -> None:
        """Start it on a machine of the cluster.

        Raises:
            WorkerError: Ray, or that machine, does not let it start.
        """
        # Agents mostly wait for their model, and Ray would wait for processors that nobody gives back.
        self._actor = ray.remote(Host).options(num_cpus=0, scheduling_strategy="SPREAD").remote()
        await self._call("open", parcel)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayError as error:
            raise WorkerError(f"the Ray actor of a worker failed: {type(error).__name__}: {error}") from error

    async def order(self, order: Order) -> None:
        await self._call("order", order)

    async def stop(self) -> None:
        await self._call("stop")

    async def event(self) -> bytes:
        while not self._told:
            # A caller that is cancelled leaves its question open; the next one waits for that answer.
            self._asked = self._asked or asyncio.ensure_future(self._call("events"))
            found = await asyncio.shield(self._asked)
            self._told, self._asked = found, None
        event = self._told.pop(0)
        if isinstance(event, str):
            self._told.insert(0, event)
            raise WorkerError(event)
        return event

    async def kill(self) -> None:
        actor, self._actor = self._actor, None
        if actor is None:
            return
        if self._asked is not None:
            self._asked.cancel()
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(actor.kill.remote(), KILL_SECONDS)
        with contextlib.suppress(RayError):
            ray.kill(actor)
