"""Remote: one attempt's agent at work in a worker, as the Trainer's process sees it."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Any

import msgspec

from agl.context import ActiveAttempt
from agl.endings import AgentFailed
from agl.errors import PluginError, RewardError, WorkerError
from agl.rewards import Reward
from agl.rollouts import Failure
from agl.workers.parcel import Parcel
from agl.workers.wire import LAST_CALL, Begun, Ended, EndpointSeen, Event, Loaded, Order, RewardAdded, SpanAdded, read

GRACE_SECONDS = 1.0
"""How long an agent that is told to stop may clean up and say where it was; then its worker is killed."""


class Link(ABC):
    """The way to one worker; a transport derives from it."""

    @abstractmethod
    async def open(self, parcel: Parcel) -> None:
        """Start it.

        Raises:
            WorkerError: it cannot be started.
        """

    @abstractmethod
    async def order(self, order: Order) -> None:
        """Have it begin an attempt.

        Raises:
            WorkerError: it is gone.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Have it cancel the agent at work; nothing happens when it is gone."""

    @abstractmethod
    async def event(self) -> bytes:
        """The next thing that it tells.

        Raises:
            WorkerError: it is gone, and how it ended.
        """

    @abstractmethod
    async def kill(self) -> None:
        """End it with everything that it has started, and let go of it; a second call does nothing."""


class Remote:
    """A worker at the end of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.free = False
        """Whether it may be given an attempt: it has loaded the agent, and its last attempt ended by itself."""
        self._over: Ended | None = None
        self._seen: str | None = None

    async def loaded(self) -> str | None:
        """Wait until it has its agent; the traceback when it cannot have it.

        Raises:
            WorkerError: it died meanwhile.
        """
        event = read(await self._link.event())
        assert isinstance(event, Loaded)
        self.free = event.error is None
        return event.error

    async def begin(self, attempt: ActiveAttempt) -> None:
        """Have the agent begin; returns when it has.

        Raises:
            WorkerError: the worker died.
        """
        self.free, self._over, self._seen = False, None, None
        ids = {"trace_id": attempt.trace_id, "root_id": attempt.root_id}
        await self._link.order(Order(rollout=attempt.rollout, resources=attempt.resources, directory=attempt.directory, **ids))
        self._over = await self._until(Begun, attempt)

    async def end(self, attempt: ActiveAttempt) -> tuple[Any, list[Reward]]:
        """Wait until the agent ends; returns its output and its rewards.

        Raises:
            AgentFailed: it raised, with the traceback from there.
            RewardError: it gave no proper reward.
            PluginError: a plugin broke there.
            WorkerError: the worker died.
        """
        try:
            ended = self._over or await self._until(Ended, attempt)
        except asyncio.CancelledError as error:
            if place := await self._place(attempt):
                error.add_note(place)
            raise
        assert ended is not None
        self.free = not ended.plugin_error
        return _result(ended)

    async def _place(self, attempt: ActiveAttempt) -> str | None:
        """Stop the agent; where it was, if it says so in time."""
        with contextlib.suppress(WorkerError, TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self._link.stop()
                ended = await self._until(Ended, attempt)
                return ended and ended.error
        return None

    async def _until(self, kind: type[Begun | Ended], attempt: ActiveAttempt) -> Ended | None:
        """Take what is told until an event of a kind, or the end, comes; the end if it was that."""
        while not isinstance(event := read(await self._link.event()), (kind, Ended)):
            self._take(event, attempt)
        if not isinstance(event, Ended):
            return None
        attempt.used_prompts.update(event.used_prompts)
        return event

    def _take(self, event: Event, attempt: ActiveAttempt) -> None:
        match event:
            case SpanAdded():
                attempt.add_span(event.span)
            case RewardAdded():
                attempt.add_reward(_bound(event.reward, attempt))
            case EndpointSeen():
                if event.error is not None or attempt.infrastructure_error == self._seen:  # what the gateway has seen stays
                    attempt.infrastructure_error = event.error
                self._seen = event.error
            case _:
                pass

    async def kill(self) -> None:
        """End the worker with everything that it has started."""
        self.free = False
        await self._link.kill()


def _bound(reward: Reward, attempt: ActiveAttempt) -> Reward:
    """A reward at the span of its call: the gateway knows which call was the last, and under which span a call succeeded."""
    if reward.span_id is None:
        return reward
    span_id = attempt.last_call if reward.span_id.startswith(LAST_CALL) else attempt.call_spans.get(reward.span_id, reward.span_id)
    return msgspec.structs.replace(reward, span_id=span_id)


def _result(ended: Ended) -> tuple[Any, list[Reward]]:
    if ended.plugin_error:
        raise PluginError(ended.error or "")
    if ended.failure == Failure.REWARD:
        raise RewardError(ended.error or "")
    if ended.failure is not None:
        raise AgentFailed(ended.error or "the agent was cancelled")
    return ended.output, ended.rewards
