"""Messages and results of AutoGen as bounded JSON values without secrets."""

from __future__ import annotations

from typing import Any

from agl.agents import is_instance_of
from agl.values import ITEMS, jsonable

_MESSAGE = ("type", "source", "target", "content")


def told(value: Any) -> Any:
    """What a span tells of a task, a message, a list of them, a result, or arguments of a tool."""
    return jsonable(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        # One more than is kept, so that what is cut says so.
        return [_plain(item) for item in value[: ITEMS + 1]]
    if is_instance_of(value, "autogen_agentchat.base:TaskResult"):
        return {"messages": _plain(value.messages), "stop_reason": value.stop_reason}
    if is_instance_of(value, "autogen_agentchat.messages:BaseMessage"):
        return {name: getattr(value, name) for name in _MESSAGE if hasattr(value, name)}
    return value
