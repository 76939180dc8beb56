"""What is kept of an LLM call: the request as sent, the answer as received, the engine's tokens taken out of it."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec

from agl.resources import LLM
from agl.rollouts import Rollout
from agl.spans import Choice, LLMCall, Span, SpanKind, SpanStatus

TOKEN_FIELDS = {"return_token_ids": True, "logprobs": True}
"""Asked of an engine under training, in vLLM's field names."""


class Exchange(msgspec.Struct, kw_only=True):
    """One call on its way through the gateway."""

    span_id: str
    trace_id: str
    parent_id: str | None
    role: str | None
    call_id: str | None
    retry_of: str | None
    asked: dict[str, Any]
    """Body as the agent sent it."""
    sent: dict[str, Any]
    """Body as it goes upstream."""
    overridden: dict[str, Any]
    version: str | None
    started_at: float
    first_token_at: float | None = None


def upstream_body(asked: dict[str, Any], llm: LLM, rollout: Rollout, call_number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body to send upstream, and the fields in which it differs from the agent's (with the agent's own values)."""
    sets: dict[str, Any] = {"model": llm.model, **llm.parameters(str(rollout.mode))}
    if "max_tokens" in sets and asked.get("max_completion_tokens") is not None:  # one limit, under the agent's name for it
        sets["max_completion_tokens"] = sets.pop("max_tokens")
    if llm.version is not None:
        sets |= TOKEN_FIELDS
    if llm.seeded and asked.get("seed") is None:
        sets["seed"] = call_seed(rollout.seed, call_number)
    overridden = {name: asked.get(name) for name, value in sets.items() if asked.get(name) != value}
    return {**asked, **sets}, overridden


def call_seed(seed: int, call_number: int) -> int:
    """Seed of the n-th call of a rollout: (,) below 2**31, so that every engine takes it."""
    digest = hashlib.blake2b(f"{seed}:{call_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def answer_for_agent(response: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The response without what only the gateway asked for."""
    choices = []
    for choice in response.get("choices") or []:
        kept = {name: value for name, value in choice.items() if name != "token_ids" or asked.get("return_token_ids")}
        if not asked.get("logprobs"):
            kept["logprobs"] = None
        choices.append(kept)
    dropped = set() if asked.get("return_token_ids") else {"prompt_token_ids"}
    return {name: value for name, value in response.items() if name not in dropped} | {"choices": choices}


def make_span(exchange: Exchange, attempt_id: str, rollout_id: str, *, response: dict[str, Any] | None, status: int, error: str | None) -> Span:
    """The llm span of a call that ended, well or not."""
    call = LLMCall(
        request=exchange.sent,
        response=None if response is None else answer_for_agent(response, {}),
        choices=[_choice(choice) for choice in (response or {}).get("choices") or []],
        prompt_ids=(response or {}).get("prompt_token_ids"),
        version=None if response is None else str(response.get("weight_version") or exchange.version or "") or None,
        overridden=exchange.overridden,
        streamed=bool(exchange.sent.get("stream")),
        http_status=status,
        retry_of=exchange.retry_of,
        first_token_seconds=exchange.first_token_at and exchange.first_token_at - exchange.started_at,
    )
    return Span(
        span_id=exchange.span_id,
        trace_id=exchange.trace_id,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        name=f"chat {exchange.sent.get('model')}",
        kind=SpanKind.LLM,
        started_at=exchange.started_at,
        ended_at=time.time(),
        parent_id=exchange.parent_id,
        role=exchange.role,
        status=SpanStatus.ERROR if error else SpanStatus.OK,
        error=error,
        attributes=_attributes(exchange, response or {}) | {"agl.call_id": exchange.call_id, "agl.call": msgspec.to_builtins(call)},
    )


def _choice(choice: dict[str, Any]) -> Choice:
    entries = (choice.get("logprobs") or {}).get("content")
    return Choice(
        response_ids=choice.get("token_ids"),
        logprobs=None if entries is None else [float(entry["logprob"]) for entry in entries],
        finish_reason=choice.get("finish_reason"),
    )


def _attributes(exchange: Exchange, response: dict[str, Any]) -> dict[str, Any]:
    usage = response.get("usage") or {}
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": exchange.sent.get("model"),
        "gen_ai.request.temperature": exchange.sent.get("temperature"),
        "gen_ai.request.max_tokens": exchange.sent.get("max_tokens") or exchange.sent.get("max_completion_tokens"),
        "gen_ai.response.id": response.get("id"),
        "gen_ai.response.model": response.get("model"),
        "gen_ai.response.finish_reasons": [choice.get("finish_reason") for choice in response.get("choices") or []],
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
    }
    return {name: value for name, value in values.items() if value is not None}


class StreamAssembler:
    """Puts the chunks of a streamed chat completion together to the response that an unstreamed call would have had."""

    def __init__(self) -> None:
        self.response: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self.error: str | None = None

    def feed(self, data: bytes) -> bool:
        """Take bytes of the event stream as they arrive; returns whether they held a token."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        seen = False
        for line in lines:
            payload = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and payload != b"[DONE]":
                seen |= self._chunk(msgspec.json.decode(payload))
        return seen

    def _chunk(self, chunk: dict[str, Any]) -> bool:
        if "error" in chunk:
            self.error = str(chunk["error"])
            return False
        for name, value in chunk.items():
            if name not in ("choices", "object") and value is not None:
                self.response[name] = value
        deltas = chunk.get("choices") or []
        for delta in deltas:
            self._delta(delta)
        return bool(deltas)

    def _delta(self, part: dict[str, Any]) -> None:
        choice = self._choices.setdefault(
            part.get("index", 0), {"index": part.get("index", 0), "message": {"role": "assistant", "content": None}, "finish_reason": None}
        )
        message, delta = choice["message"], part.get("delta") or {}
        for name, value in delta.items():
            if name == "tool_calls":
                _merge_tool_calls(message.setdefault("tool_calls", []), value or [])
            elif isinstance(value, str) and name != "role":
                message[name] = (message.get(name) or "") + value
            elif value is not None:
                message[name] = value
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        if part.get("token_ids") is not None:
            choice.setdefault("token_ids", []).extend(part["token_ids"])
        if (part.get("logprobs") or {}).get("content") is not None:
            choice.setdefault("logprobs", {"content": []})["content"].extend(part["logprobs"]["content"])

    def finished(self) -> dict[str, Any]:
        """The whole response."""
        return {**self.response, "object": "chat.completion", "choices": [self._choices[index] for index in sorted(self._choices)]}


def _merge_tool_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    for part in parts:
        index = part.get("index", len(calls))
        while len(calls) <= index:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call, function = calls[index], part.get("function") or {}
        call |= {name: value for name, value in part.items() if name in ("id", "type") and value}
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""
