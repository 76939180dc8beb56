"""A toy tokenisation of chats: one id per UTF-8 byte, with a token where a turn starts and one where it ends.

A conversation that goes on keeps its earlier ids: the next prompt begins with the last prompt and what was sampled.
"""

from __future__ import annotations

import json
from typing import Any

END = 256
"""Token id that ends a turn."""
ROLES = {"system": 257, "developer": 257, "user": 258, "assistant": 259, "tool": 260}
"""Token ids that start a turn."""


def prompt_ids(body: dict[str, Any]) -> list[int]:
    """(P,) token ids of a request: its tools, then each message between its role's token and `END`."""
    ids = list(json.dumps(body["tools"], sort_keys=True).encode()) if body.get("tools") else []
    for message in body.get("messages") or [{"role": "user", "content": str(body.get("prompt", ""))}]:
        ids += [ROLES.get(message["role"], ROLES["user"]), *message_text(message).encode(), END]
    return [*ids, ROLES["assistant"]]


def logprob_of(token: int) -> float:
    """The toy model's log-probability of a token: fixed, negative, different for neighbours."""
    return -0.1 * (1 + token % 7)


def logprob_entry(token: int) -> dict[str, Any]:
    """One entry of `logprobs.content`, as vLLM tells it."""
    return {"token": f"token_id:{token}", "logprob": logprob_of(token), "bytes": [token] if token < END else None, "top_logprobs": []}


def message_text(message: dict[str, Any]) -> str:
    """Content and tool calls of a message as one text; the layout of the arguments' JSON does not matter."""
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return text + "".join(call_text(call["name"], json.loads(call["arguments"])) for call in calls)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call as the toy model samples it."""
    return "<tool_call>" + json.dumps({"name": name, "arguments": arguments}, sort_keys=True)
