"""What a response of the Responses API is made of."""

from __future__ import annotations

from typing import Any, cast

from agl.gateway.dialects.blocks import Block, Kind

ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
"""Fields of a request that its response repeats, with what stands there where the request has none."""


def item(block: Block, index: int, span_id: str, logprobs: list[Any] | None = None, status: str = "completed") -> dict[str, Any]:
    """A block as an item of a response's output."""
    if block.kind == Kind.CALL:
        named = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
        return {"type": "function_call", "id": f"fc_{span_id}_{index}", **named, "status": status}
    content = [part(block, logprobs)] if block.text else []
    if block.kind == Kind.REASONING:
        return {"type": "reasoning", "id": f"rs_{span_id}_{index}", "summary": [], "content": content, "status": status}
    return {"type": "message", "id": f"msg_{span_id}_{index}", "role": "assistant", "status": status, "content": content}


def part(block: Block, logprobs: list[Any] | None = None) -> dict[str, Any]:
    """What a block says, as the one part of its item's content."""
    if block.kind == Kind.TEXT:
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs or []}
    return {"type": "refusal", "refusal": block.text} if block.kind == Kind.REFUSAL else {"type": "reasoning_text", "text": block.text}


def logprobs_of(response: dict[str, Any], asked: dict[str, Any]) -> list[Any] | None:
    """The log-probabilities of an answer, where the request asks for them."""
    include: Any = asked.get("include")
    if not isinstance(include, list) or "message.output_text.logprobs" not in include:
        return None
    try:
        return list(response["choices"][0]["logprobs"]["content"])
    except (LookupError, TypeError):
        return None


def usage_of(usage: Any) -> dict[str, Any] | None:
    """Token counts; None where the endpoint tells none."""
    if not isinstance(usage, dict):
        return None
    told = cast("dict[str, Any]", usage)
    read, written = told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0
    reading: dict[str, Any] = told.get("prompt_tokens_details") or {}
    writing: dict[str, Any] = told.get("completion_tokens_details") or {}
    cached, thought = reading.get("cached_tokens") or 0, writing.get("reasoning_tokens") or 0
    counts = {"input_tokens": read, "output_tokens": written, "total_tokens": told.get("total_tokens") or read + written}
    return counts | {"input_tokens_details": {"cached_tokens": cached}, "output_tokens_details": {"reasoning_tokens": thought}}
