"""OpenAI Responses."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from agl.testing.dialects import Event, pieces
from agl.testing.reply import Reply, Sampled
from agl.testing.toy_tokens import prompt_ids

end = b""


def answer(number: int, body: dict[str, Any], replies: Sequence[Reply], version: str | None) -> dict[str, Any]:
    """The whole response: a message and its function calls as items."""
    sampled = Sampled(replies[0], body.get("max_output_tokens"))
    output = list(_items(number, sampled))
    size = len(prompt_ids({"messages": _messages(body), "tools": body.get("tools")}))
    usage = {"input_tokens": size, "output_tokens": len(sampled.ids), "total_tokens": size + len(sampled.ids)}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if sampled.finish == "length" else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if sampled.finish == "length" else None,
        "instructions": body.get("instructions"),
        "model": body.get("model", "m"),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "metadata": body.get("metadata") or {},
        "usage": usage,
    } | ({"weight_version": version} if version is not None else {})


def events(body: dict[str, Any], answer: dict[str, Any]) -> Iterable[Event]:
    """The same response as it grows; every event has its number in the stream."""
    numbers = itertools.count()
    for kind, fields in _told(answer):
        yield Event({"type": kind, "sequence_number": next(numbers), **fields}, kind)


def error(status: int, message: str) -> dict[str, Any]:
    """A refusal."""
    return {"error": {"message": message, "type": "scripted", "param": None, "code": str(status)}}


def _items(number: int, sampled: Sampled) -> Iterator[dict[str, Any]]:
    if sampled.content is not None or not sampled.tool_calls:
        text: dict[str, Any] = {"type": "output_text", "text": sampled.content or "", "annotations": []}
        yield {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [text]}
    for place, (name, given) in enumerate(sampled.tool_calls):
        ids = {"id": f"fc_{number}_{place}", "call_id": f"call_{number}_{place}"}
        yield {"type": "function_call", **ids, "name": name, "arguments": json.dumps(given), "status": "completed"}


def _told(answer: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    begun: dict[str, Any] = {**answer, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(answer["output"]):
        place = {"output_index": index}
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        yield "response.output_item.added", {**place, "item": {**item, "status": "in_progress", **empty}}
        yield from (_message if item["type"] == "message" else _function_call)(item, {**place, "item_id": item["id"]})
        yield "response.output_item.done", {**place, "item": item}
    yield f"response.{answer['status']}", {"response": answer}


def _message(item: dict[str, Any], place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    part, place = item["content"][0], {**place, "content_index": 0}
    yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
    for text in pieces(part["text"]):
        yield "response.output_text.delta", {**place, "delta": text, "logprobs": []}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}


def _function_call(item: dict[str, Any], place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in pieces(item["arguments"]):
        yield "response.function_call_arguments.delta", {**place, "delta": text}
    yield "response.function_call_arguments.done", {**place, "name": item["name"], "arguments": item["arguments"]}


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The request as messages of a chat, to count its tokens: what the model said in one turn is one message."""
    given: Any = body.get("input") or ""
    items = cast("list[dict[str, Any]]", [{"role": "user", "content": given}] if isinstance(given, str) else given)
    messages: list[dict[str, Any]] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    for item in items:
        if item.get("type") == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            messages[-1].setdefault("tool_calls", []).append({"function": item})
        elif item.get("type") == "function_call_output":
            messages.append({"role": "tool", "content": item["output"]})
        elif "role" in item:
            messages.append({"role": item["role"], "content": item["content"]})
    return messages
