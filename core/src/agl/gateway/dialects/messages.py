"""Anthropic Messages, by way of chat completions."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from agl.gateway.dialects.blocks import Answer, Block, Kind, answer_of, arguments_of
from agl.gateway.dialects.messages_input import input_of, messages_of, tools_of
from agl.gateway.dialects.messages_stream import MessagesWriter
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem, check_single, invalid, object_of, unsupported
from agl.gateway.stream import StreamAssembler

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ELSEWHERE = frozenset(
    {"messages", "system", "tools", "tool_choice", "max_tokens", "stop_sequences", "metadata", "output_config", "output_format"}
)
_WITHOUT_EFFECT = frozenset({"cache_control", "diagnostics", "inference_geo", "service_tier", "speed", "thinking", "user_profile_id"})
"""They change where and how Anthropic samples, or that the model may think, which a chat model's template decides."""
_REFUSED = ("container", "context_management", "mcp_servers")


class MessagesReading:
    """A request of the Messages API as one of chat completions.

    Raises:
        Problem: see `Dialect.read`.
    """

    assembler = StreamAssembler

    def __init__(self, asked: dict[str, Any], memory: Memory) -> None:
        self._memory = memory
        if type(asked.get("max_tokens")) is not int:
            raise invalid("max_tokens", "a whole number", asked.get("max_tokens"))
        self.chat = chat_of(asked, memory)

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The message object."""
        return self.message(answer_of(response, span_id), response, span_id)

    def writer(self, span_id: str) -> MessagesWriter:
        """The message as it grows."""
        return MessagesWriter(self, span_id)

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The answer itself."""
        return response

    def message(self, answer: Answer, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The message object of an answer; what its tool calls were written as is kept for the next request."""
        self._memory.arguments |= arguments_of(answer.blocks)
        return {
            "id": f"msg_{span_id}",
            "type": "message",
            "role": "assistant",
            "model": response.get("model"),
            "content": [block_of(block) for block in answer.blocks],
            **_stop(answer),
            "usage": usage_of(response),
        }


class Messages:
    """`/v1/messages`."""

    name = "messages"
    path = "chat/completions"
    translated = True
    token_fields = {"return_token_ids": True, "logprobs": True}

    def read(self, asked: dict[str, Any], memory: Memory) -> MessagesReading:
        """The request as one of chat completions."""
        return MessagesReading(asked, memory)

    def error(self, problem: Problem) -> dict[str, Any]:
        """An error in Anthropic's form."""
        return error(problem.status, problem.message)

    def refusal(self, status: int, body: bytes) -> bytes:
        """The upstream's words in Anthropic's form."""
        return msgspec.json.encode(error(status, _message(body)))


def chat_of(asked: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """The chat request; fields that Messages do not know go on as they are.

    Raises:
        Problem: it has not the form of a request, or asks for what chat completions do not have.
    """
    for name in _REFUSED:
        if asked.get(name):
            raise unsupported(name, "the endpoint of an attempt speaks chat completions, which have nothing for it", "leave it out")
    check_single(asked)
    handled = _ELSEWHERE | _WITHOUT_EFFECT | set(_REFUSED)
    chat = {name: value for name, value in asked.items() if name not in handled and value is not None}
    chat = {"messages": messages_of(asked, memory), **chat, **tools_of(asked), **_output(asked)}
    if asked.get("max_tokens") is not None:
        chat["max_completion_tokens"] = asked["max_tokens"]
    if asked.get("stop_sequences"):
        chat["stop"] = asked["stop_sequences"]
    user = object_of(asked.get("metadata") or {}, "metadata").get("user_id")
    if user is not None:
        chat["user"] = user
    return chat | ({"stream_options": {"include_usage": True}} if chat.get("stream") else {})


def error(status: int, message: str) -> dict[str, Any]:
    """An error in Anthropic's form, so that its clients show the message."""
    kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


def block_of(block: Block) -> dict[str, Any]:
    """A part of the answer as a content block."""
    if block.kind == Kind.CALL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": input_of(block.text)}
    if block.kind == Kind.REASONING:
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    return {"type": "text", "text": block.text, "citations": None}


def usage_of(response: dict[str, Any]) -> dict[str, Any]:
    """Token counts, of which 0 stands for unknown: the field must be there."""
    usage: dict[str, Any] = response.get("usage") or {}
    return {"input_tokens": usage.get("prompt_tokens") or 0, "output_tokens": usage.get("completion_tokens") or 0}


def _stop(answer: Answer) -> dict[str, Any]:
    called = answer.finish_reason == "stop" and any(block.kind == Kind.CALL for block in answer.blocks)
    reason = "tool_use" if called else _STOPS.get(answer.finish_reason or "stop", answer.finish_reason)
    met = answer.stop_reason if isinstance(answer.stop_reason, str) and reason == "end_turn" else None
    return {"stop_reason": "stop_sequence" if met else reason, "stop_sequence": met}


def _output(asked: dict[str, Any]) -> dict[str, Any]:
    config = object_of(asked.get("output_config") or {}, "output_config")
    form = object_of(config.get("format") or asked.get("output_format") or {}, "output_config.format")
    options: dict[str, Any] = {} if config.get("effort") is None else {"reasoning_effort": config["effort"]}
    if not form:
        return options
    if form.get("type") != "json_schema":
        raise invalid("output_config.format.type", "`json_schema`", form.get("type"))
    schema = {"name": "output", "schema": object_of(form.get("schema"), "output_config.format.schema"), "strict": True}
    return options | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _message(body: bytes) -> str:
    """What an upstream says in OpenAI's form, or in any other."""
    try:
        told: Any = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, RecursionError):
        told = None
    message: Any = cast("dict[str, Any]", told).get("message") if isinstance(told, dict) else told
    return message if isinstance(message, str) else body[:2000].decode(errors="replace")
