"""Answers of the server as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

_encode = msgspec.json.Encoder().encode


def json_answer(body: dict[str, Any], status: int = 200) -> web.Response:
    """A JSON object as an answer."""
    return web.Response(body=_encode(body), status=status, content_type="application/json")


def sse(body: dict[str, Any]) -> bytes:
    """A JSON object as an event of a stream."""
    return b"data: " + _encode(body) + b"\n\n"


def usage(prompt: int, sampled: int) -> dict[str, int]:
    """OpenAI's `usage` object, in tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}
