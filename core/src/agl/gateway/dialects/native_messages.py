"""Anthropic Messages, for an endpoint that speaks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agl.gateway.dialects import openai
from agl.gateway.dialects.blocks import Block, Kind
from agl.gateway.dialects.events import event
from agl.gateway.dialects.messages import Messages, MessagesReading, error
from agl.gateway.dialects.native import JSON, completion, told, without_texts
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem
from agl.gateway.stream import StreamAssembler, error_text

KEY_HEADER = "x-api-key"
"""Where these endpoints look for their key."""
VERSION = "2023-06-01"
"""Of the API, where the client names none."""
_FINISHED = {"max_tokens": "length", "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
_GROWS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    """Those that no cache had to do with."""
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None

    def counts(self) -> tuple[int, int]:
        """Tokens that were read and written."""
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return (self.input_tokens or 0) + cached, self.output_tokens or 0


class _Message(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    usage: _Usage | None = None


class MessageAssembler(StreamAssembler):
    """Puts the events of a message together to the message that an unstreamed call would have had."""

    def __init__(self) -> None:
        super().__init__()
        self._inputs: dict[int, str] = {}

    @property
    def complete(self) -> bool:
        """Whether the message came to its end."""
        return self.done

    def finished(self) -> dict[str, Any]:
        """The whole message.

        Raises:
            Problem: it has another form.
        """
        if self.done:
            told(self.response, _Message)
        return self.response

    def _chunk(self, chunk: dict[str, Any]) -> None:
        kind = chunk.get("type")
        if kind == "error":
            self.error = error_text(chunk.get("error"))
        elif kind == "message_start":
            self.response = {**chunk["message"], "content": []}
        elif kind == "content_block_start":
            self.response["content"].append(dict(chunk["content_block"]))
        elif kind == "content_block_delta":
            self._grow(chunk["index"], chunk["delta"])
        elif kind == "content_block_stop" and chunk["index"] in self._inputs:
            self.response["content"][chunk["index"]]["input"] = msgspec.json.decode(self._inputs[chunk["index"]] or "{}")
        elif kind == "message_delta":
            self.response |= chunk["delta"] | {"usage": {**self.response["usage"], **(chunk.get("usage") or {})}}
        elif kind == "message_stop":
            self.done = True

    def _grow(self, index: int, delta: dict[str, Any]) -> None:
        block, kind = self.response["content"][index], delta.get("type")
        if kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        elif kind in _GROWS:
            block[_GROWS[kind]] = (block.get(_GROWS[kind]) or "") + delta[_GROWS[kind]]


class NativeMessagesReading:
    """A request of the Messages API, which goes on as it is."""

    assembler = MessageAssembler

    def __init__(self, asked: dict[str, Any], memory: Memory) -> None:
        try:
            self.chat = MessagesReading(asked, memory).chat
            self.chat.pop("stream_options", None)
        except Problem:  # the endpoint judges it; the record then has no view of what was said
            self.chat = without_texts(asked, "max_tokens")

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The message itself."""
        told(response, _Message)
        return response

    def writer(self, span_id: str) -> MessagesPassed:
        """The stream as it is."""
        return MessagesPassed(usage=True)

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The message as a chat completion."""
        message = told(response, _Message)
        reason = _FINISHED.get(message.stop_reason or "", "stop")
        return completion(response, list(_blocks(message)), reason, message.usage and message.usage.counts())


class MessagesPassed(openai.PlainWriter):
    """Gives the endpoint's events as they are."""

    def fail(self, problem: Problem) -> bytes:
        """The error as an event of this API."""
        return event({name: value for name, value in error(502, problem.message).items() if name != "request_id"})


class NativeMessages(Messages):
    """`/v1/messages` of an endpoint that has it."""

    path = "messages"
    translated = False
    token_fields: dict[str, Any] = {}
    limit = "max_tokens"
    key_header = KEY_HEADER

    def read(self, asked: dict[str, Any], memory: Memory) -> Any:
        """Anything: the endpoint judges it."""
        return NativeMessagesReading(asked, memory)

    def refusal(self, status: int, body: bytes) -> bytes:
        """The endpoint's own words."""
        return body

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """Of the API: its version, and what is tried out."""
        return headers_of(given)


def headers_of(given: Mapping[str, str]) -> dict[str, str]:
    """What of a client's headers belongs to the API."""
    beta = {"anthropic-beta": given["anthropic-beta"]} if "anthropic-beta" in given else {}
    return {**JSON, "anthropic-version": given.get("anthropic-version", VERSION), **beta}


def _blocks(message: _Message) -> Iterator[Block]:
    for block in message.content:
        if block.type == "text":
            yield Block(Kind.TEXT, block.text or "")
        elif block.type == "thinking":
            yield Block(Kind.REASONING, block.thinking or "")
        elif block.type == "tool_use":
            yield Block(Kind.CALL, msgspec.json.encode(block.input).decode(), block.id or "", block.name or "")
