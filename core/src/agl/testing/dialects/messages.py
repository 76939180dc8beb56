"""Anthropic Messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from agl.testing.dialects import Event, pieces
from agl.testing.reply import Reply, Sampled
from agl.testing.toy_tokens import prompt_ids

end = b""

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def answer(number: int, body: dict[str, Any], replies: Sequence[Reply], version: str | None) -> dict[str, Any]:
    """The whole message: a text block and its tool uses. To a question that only counts tokens, their count."""
    size = len(prompt_ids({"messages": list(_messages(body)), "tools": body.get("tools")}))
    if "max_tokens" not in body:
        return {"input_tokens": size}
    sampled = Sampled(replies[0], body["max_tokens"])
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "m"),
        "content": list(_blocks(number, sampled)),
        "stop_reason": _STOPS.get(sampled.finish, sampled.finish),
        "stop_sequence": None,
        "stop_details": None,
        "usage": {"input_tokens": size, "output_tokens": len(sampled.ids)},
    } | ({"weight_version": version} if version is not None else {})


def events(body: dict[str, Any], answer: dict[str, Any]) -> Iterable[Event]:
    """The same message as it grows."""
    for fields in _told(answer):
        yield Event(fields, fields["type"])


def error(status: int, message: str) -> dict[str, Any]:
    """A refusal."""
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def _blocks(number: int, sampled: Sampled) -> Iterator[dict[str, Any]]:
    if sampled.content:
        yield {"type": "text", "text": sampled.content}
    for place, (name, given) in enumerate(sampled.tool_calls):
        yield {"type": "tool_use", "id": f"toolu_{number}_{place}", "name": name, "input": given}


def _told(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    usage = answer["usage"]
    begun: dict[str, Any] = {**answer, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(answer["content"]):
        is_text = block["type"] == "text"
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **({"text": ""} if is_text else {"input": {}})}}
        for text in pieces(block["text"] if is_text else json.dumps(block["input"])):
            delta = {"type": "text_delta", "text": text} if is_text else {"type": "input_json_delta", "partial_json": text}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}


def _messages(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The request as messages of a chat, to count its tokens."""
    if body.get("system"):
        yield {"role": "system", "content": body["system"]}
    for message in body.get("messages") or ():
        given: Any = message["content"]
        blocks = cast("list[dict[str, Any]]", [{"type": "text", "text": given}] if isinstance(given, str) else given)
        yield from ({"role": "tool", "content": block.get("content")} for block in blocks if block["type"] == "tool_result")
        said = [block for block in blocks if block["type"] == "text"]
        used = [{"function": {**block, "arguments": json.dumps(block["input"])}} for block in blocks if block["type"] == "tool_use"]
        if said or used:
            yield {"role": message["role"], "content": said, "tool_calls": used}
