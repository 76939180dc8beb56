"""Tool calls in an answer's text, in the form that Hermes and Qwen models write: `<tool_call>{"name": …}</tool_call>`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

MARKS = ("<tool_call>", "</tool_call>")
"""What stands around a call; a token of its own in many vocabularies."""
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def split_tool_calls(text: str, call_id: str) -> tuple[str, list[dict[str, Any]]]:
    """The text before the first well-formed call, and the calls as OpenAI writes them; what does not parse stays text.

    Args:
        text: an answer.
        call_id: beginning of the calls' ids.
    """
    calls: list[dict[str, Any]] = []
    first = len(text)
    for found in _CALL.finditer(text):
        try:
            call = msgspec.json.decode(found.group(1))
        except msgspec.DecodeError:
            continue
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            continue
        arguments = call.get("arguments", {})
        written = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        calls.append({"id": f"{call_id}-{len(calls)}", "type": "function", "function": {"name": call["name"], "arguments": written}})
        first = min(first, found.start())
    return text[:first].rstrip() if calls else text, calls
