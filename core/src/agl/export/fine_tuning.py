"""Lines of OpenAI's supervised fine-tuning files (`FineTuneChatRequestInput` of its OpenAPI document, version 2.3.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from agl.export.calls import Message, function_of, tool_calls_of, with_text_arguments
from agl.export.conversations import Conversation, conversations_of, exchanges_of
from agl.results import RolloutResult
from agl.roles import Roles

LEAST_EXAMPLES = 10
"""Fewer are refused by the API."""
_FIELDS = {
    "system": ("content", "name"),
    "user": ("content", "name"),
    "assistant": ("content", "name", "refusal"),
    "tool": ("content", "tool_call_id"),
}
_ROLES = {"developer": "system"}


class FineTuning:
    """Makes lines from groups of rollouts; `weight` is 1 where an answer is learned, 0 for all other assistant messages."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self.left_out: Counter[str] = Counter()
        """Conversations that no line can be made of, by reason."""

    def lines(self, group: Sequence[RolloutResult]) -> Iterator[dict[str, Any]]:
        """`messages`, and `tools` with `parallel_tool_calls` where tools were offered."""
        for result in group:
            for item in conversations_of(exchanges_of(result, self._roles)):
                if not item.learned:
                    continue
                line = _line(item)
                if (why := why_refused(line)) is None:
                    yield line
                else:
                    self.left_out[f"conversations in which {why}"] += 1


def _line(item: Conversation) -> dict[str, Any]:
    messages = [_message(given, index in item.learned) for index, given in enumerate(item.messages)]
    if not item.tools:
        return {"messages": messages}
    parallel = any(len(tool_calls_of(given)) > 1 for given in messages)
    return {"messages": messages, "tools": item.tools, "parallel_tool_calls": parallel}


def _message(given: Message, learned: bool) -> Message:
    role: str = given.get("role", "assistant")
    role = _ROLES.get(role, role)
    made: Message = {"role": role, **{name: given[name] for name in _FIELDS.get(role, ()) if given.get(name) is not None}}
    if role == "assistant":
        calls = [with_text_arguments(call) for call in tool_calls_of(given)]
        made |= {"weight": int(learned)} | ({"tool_calls": [_plain(call) for call in calls]} if calls else {})
    return made


def _plain(call: dict[str, Any]) -> dict[str, Any]:
    function = function_of(call)
    return {"id": call.get("id"), "type": "function", "function": {"name": function.get("name"), "arguments": function["arguments"]}}


def why_refused(line: dict[str, Any]) -> str | None:
    """Why the API would refuse a line; None when it would not."""
    messages: list[Message] = line["messages"]
    if unknown := next((item["role"] for item in messages if item["role"] not in _FIELDS), None):
        return f"a message has the role `{unknown}`"
    if messages[-1]["role"] != "assistant":
        return "the last message is none of the assistant"
    if not any(item.get("weight") for item in messages):
        return "no answer has the weight 1"
    if any(not item.get("content") and not item.get("tool_calls") for item in messages if item["role"] == "assistant"):
        return "an answer is empty"
    return _unpaired(messages)


def _unpaired(messages: Sequence[Message]) -> str | None:
    """Tool messages answer the calls of the assistant message before them, all of them unless it is the last."""
    waiting: set[Any] = set()
    for item in messages:
        if item["role"] == "tool":
            if item.get("tool_call_id") not in waiting:
                return "a tool message answers no tool call"
            waiting.discard(item["tool_call_id"])
        elif waiting:
            return "a tool call has no answer"
        else:
            waiting = {call["id"] for call in tool_calls_of(item)}
    return None
