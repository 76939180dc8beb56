"""Worker: runs attempts where it is, one at a time, and tells what happens as it happens.

How orders come and where events go is the transport's. What it told before its death is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agl.context import ActiveAttempt, entered
from agl.endings import as_json, place_of, stopped_from_outside, traceback_of
from agl.errors import PluginError, RewardError
from agl.plugins import Plugins
from agl.rewards import Reward
from agl.rollouts import Failure
from agl.runner import BoundAgent
from agl.spans import Span
from agl.store.encoding import printable
from agl.workers.parcel import Parcel
from agl.workers.wire import LAST_CALL, Begun, Ended, EndpointSeen, Event, Loaded, Order, RewardAdded, SpanAdded, write

Tell = Callable[[bytes], None]


class Worker:
    """Runs an agent.

    Args:
        agent: what it runs.
        plugins: opened around each attempt.
        tell: takes events, from any thread.
    """

    def __init__(self, agent: BoundAgent, plugins: Plugins, tell: Tell) -> None:
        self._agent, self._plugins = agent, plugins
        self._tell: Callable[[Event], None] = lambda event: tell(write(event))
        self._running: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """Tell that orders may come; on the event loop that attempts will run on."""
        self._tell(Loaded())

    def start(self, order: Order) -> asyncio.Task[None]:
        """Begin an attempt on this event loop; its end is told."""
        self._running = asyncio.ensure_future(self._run(order))
        return self._running

    def stop(self) -> None:
        """Cancel the agent at work; its end is told."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self, order: Order) -> None:
        attempt = _ToldAttempt(order, self._agent, self._tell)
        try:
            with entered(attempt), self._plugins.opened(attempt):
                self._tell(Begun())
                output, rewards = await self._agent.run(order.rollout, attempt.resources)
            ended = Ended(output=as_json(output), rewards=rewards, used_prompts=sorted(attempt.used_prompts))
        except PluginError as error:
            ended = Ended(plugin_error=True, error=str(error))
        except RewardError as error:
            ended = Ended(failure=Failure.REWARD, error=str(error), used_prompts=sorted(attempt.used_prompts))
        except BaseException as error:  # an agent may raise anything
            stopped = stopped_from_outside(error)
            failure, text = (Failure.CANCELLED, place_of(error)) if stopped else (Failure.AGENT, traceback_of(error))
            ended = Ended(failure=failure, error=printable(text), used_prompts=sorted(attempt.used_prompts))
        attempt.close()
        self._tell(ended)


def load(parcel: Parcel, tell: Tell) -> Worker | None:
    """The worker for an agent; None when the agent cannot be had, which is told."""
    try:
        agent, plugins = parcel.load()
    except BaseException as error:  # whatever the user's modules do when they are imported
        tell(write(Loaded(error=traceback_of(error))))
        return None
    return Worker(agent, plugins, tell)


class _ToldAttempt(ActiveAttempt):
    """An attempt whose gateway and store are in another process."""

    def __init__(self, order: Order, agent: BoundAgent, tell: Callable[[Event], None]) -> None:
        self._tell: Callable[[Event], None] = lambda event: None  # what the base sets first is nothing new
        super().__init__(order.rollout, order.resources, agent.roles, directory=order.directory, takes_rewards=agent.takes_rewards)
        self.trace_id, self.root_id = order.trace_id, order.root_id
        self.last_call = ""
        self._tell = tell

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "last_call":
            # It changes with each call, so that plugins see that one was made; what it stands for is known beside the gateway.
            value = f"{LAST_CALL}{value or ''}"
        super().__setattr__(name, value)
        if name == "infrastructure_error":
            self._tell(EndpointSeen(error=value))

    def add_span(self, span: Span) -> None:
        super().add_span(span)
        if not self.closed:
            self._tell(SpanAdded(span=span))

    def add_reward(self, reward: Reward) -> None:
        super().add_reward(reward)
        if not self.closed:
            self._tell(RewardAdded(reward=reward))
