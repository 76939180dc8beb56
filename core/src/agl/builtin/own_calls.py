"""What is kept of a call that goes to the agent's own endpoint: what was sent and what came, as the SDK saw it.

No tokens are known of it, so that no policy loss takes anything of it; critics of prompts and readers of spans want its texts.
"""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec

from agl.spans import LLMCall

_DIALECTS = {"/completions": "completions", "/responses": "responses"}


def recorded(path: str, body: dict[str, Any], overridden: dict[str, Any], answer: Any = None) -> dict[str, Any]:
    """The attributes `agl.call` and `gen_ai.usage.…` of its span.

    Args:
        path: of the call, such as `/chat/completions`.
        body: as it was sent.
        overridden: the agent's own texts, by the prompts that replaced them.
        answer: of the SDK; None while there is none. A stream is left to the agent.
    """
    request, response = _as_chat(path, body, _json_of(answer))
    call = LLMCall(
        request=request,
        response=response,
        overridden=overridden,
        streamed=bool(body.get("stream")),
        dialect=_DIALECTS.get(path, "chat"),
        original=None if request is body else body,
    )
    usage: dict[str, Any] = (response or {}).get("usage") or {}
    told = {"gen_ai.usage.input_tokens": usage.get("prompt_tokens"), "gen_ai.usage.output_tokens": usage.get("completion_tokens")}
    return {"agl.call": msgspec.to_builtins(call, enc_hook=repr)} | {name: value for name, value in told.items() if value is not None}


def _as_chat(path: str, body: dict[str, Any], response: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Request and answer as a chat; without `messages` or answer where they have no form for one."""
    if path != "/responses":
        return body, response if response is not None and isinstance(response.get("choices"), list) else None
    from agl.gateway.dialects.native_responses import NativeResponsesReading
    from agl.gateway.memory import Memory
    from agl.gateway.problems import Problem

    try:
        reading = NativeResponsesReading(body, Memory())
        return reading.chat, None if response is None else reading.recorded(response)
    except Problem:  # it goes on from what the endpoint remembers
        return {name: value for name, value in body.items() if name != "input"}, None


def _json_of(answer: Any) -> dict[str, Any] | None:
    """What the SDK was answered: its own object, or a raw response that has been read."""
    try:
        found: Any = (
            answer.model_dump(mode="json", exclude_none=True) if hasattr(answer, "model_dump") else json.loads(answer.http_response.content)
        )
    except Exception:  # a stream, or nothing yet: the SDK and its HTTP library have errors of their own for it
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
