"""What the Trainer's process and a worker say to each other.

Orders are pickled: they come from the process that trusts itself. What a worker tells is JSON, as the store would keep it: the
agent's code runs there, and nothing that it says is run here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agl.resources import Resources
from agl.rewards import Reward
from agl.rollouts import Failure, Rollout
from agl.spans import Span
from agl.store.encoding import encode, span_json

LAST_CALL = "last:"
"""Begins the span id of a reward for the call made last: which one that is, the gateway's process knows."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Run the agent on one attempt."""

    rollout: Rollout
    """With its attempt."""
    resources: Resources
    """As this attempt may use them."""
    trace_id: str
    root_id: str
    """Span id of the attempt itself."""
    directory: Path | None
    """For files of this attempt alone."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker has the agent, or cannot have it."""

    error: str | None = None


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The plugins are open and the agent begins: its time counts from here."""


class SpanAdded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A span of the attempt."""

    span: Span


class RewardAdded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A reward that the agent emitted."""

    reward: Reward


class EndpointSeen(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What is wrong at an endpoint that the agent calls past the gateway; None when a later call there has succeeded."""

    error: str | None


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The agent has ended."""

    output: Any = None
    rewards: list[Reward] = []
    used_prompts: list[str] = []
    failure: Failure | None = None
    """`CANCELLED` when it was told to stop."""
    error: str | None = None
    """The traceback, or where the agent was when it was stopped."""
    plugin_error: bool = False
    """Whether a plugin broke there, so that nothing can go on."""


Event = Loaded | Begun | SpanAdded | RewardAdded | EndpointSeen | Ended
_decoder = msgspec.json.Decoder(Event)


def write(event: Event) -> bytes:
    """An event as JSON; values of a span that JSON cannot hold as their `repr`."""
    if isinstance(event, SpanAdded):
        return b'{"type":"SpanAdded","span":' + span_json(event.span) + b"}"
    return encode(event)


def read(data: bytes) -> Event:
    """The event again.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _decoder.decode(data)
