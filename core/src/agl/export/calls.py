"""A recorded LLM call taken apart for the table, and put together again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from agl.spans import Choice, LLMCall

Message = dict[str, Any]


def messages_of(call: LLMCall) -> list[Message] | None:
    """The prompt as chat messages; None when the call was no chat."""
    return _objects(call.request.get("messages"))


def tools_of(call: LLMCall) -> list[dict[str, Any]] | None:
    """The tools that the request offered; None when it offered none."""
    return _objects(call.request.get("tools"))


def parameters_of(call: LLMCall) -> dict[str, Any]:
    """The request without its messages and tools."""
    apart = {name for name, value in (("messages", messages_of(call)), ("tools", tools_of(call))) if value is not None}
    return {name: value for name, value in call.request.items() if name not in apart}


def answer_of(call: LLMCall, index: int) -> Message | None:
    """The answer of that index as a chat message; None when there is none."""
    choices = _objects((call.response or {}).get("choices")) or []
    if index >= len(choices):
        return None
    message = choices[index].get("message")
    if isinstance(message, dict):
        return cast(Message, message)
    return {"role": "assistant", "content": choices[index].get("text")}


def call_from(
    request: Mapping[str, Any], answers: Sequence[Message | None], choices: Sequence[Choice], *, failed: bool = False, **values: Any
) -> LLMCall:
    """A call as the gateway records it.

    Args:
        request: the whole body.
        answers: a message for each choice.
        failed: there is no response, rather than one without answers.
        values: other fields of `LLMCall`.
    """
    if failed:
        return LLMCall(request=dict(request), response=None, **values)
    given = [
        {"index": index, "message": answer, "finish_reason": choice.finish_reason}
        for index, (answer, choice) in enumerate(zip(answers, choices, strict=True))
        if answer is not None
    ]
    response = {"object": "chat.completion", "model": request.get("model"), "choices": given}
    return LLMCall(request=dict(request), response=response, choices=list(choices) if given else [], **values)


def tool_calls_of(message: Message) -> list[dict[str, Any]]:
    """The tool calls in a message of the assistant."""
    return _objects(message.get("tool_calls")) or []


def function_of(call: dict[str, Any]) -> dict[str, Any]:
    """Name and arguments of a tool call."""
    function = call.get("function")
    return cast(dict[str, Any], function) if isinstance(function, dict) else {}


def with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call as the chat API has it: its arguments are JSON text."""
    arguments = function_of(call).get("arguments")
    return {**call, "function": {**function_of(call), "arguments": arguments if isinstance(arguments, str) else text(arguments)}}


def with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call as chat templates take it: its arguments are an object, or text that a model wrote and that is no JSON."""
    arguments = function_of(call).get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(arguments)
    return {**call, "function": {**function_of(call), "arguments": arguments}}


def text(value: Any) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


def text_or_none(value: Any) -> str | None:
    """A value as JSON text; None stays None."""
    return None if value is None else text(value)


def _objects(value: Any) -> list[dict[str, Any]] | None:
    """A list of objects, or None where something else stands."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in cast(list[Any], value)):
        return cast(list[dict[str, Any]], value)
    return None
