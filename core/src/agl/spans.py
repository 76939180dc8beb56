"""Span: one timed piece of work of an attempt.

Ids are OpenTelemetry's (16 bytes for a trace, 8 for a span, as lower-case hex) and attribute names follow its semantic
conventions for generative AI where they have one; what they lack stands under `agl.`.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any

import msgspec


class SpanKind(StrEnum):
    """What a span is about."""

    AGENT = "agent"
    NODE = "node"
    """A node of a graph, a task of a crew, a chain."""
    LLM = "llm"
    """One call through the gateway: the only kind that holds tokens."""
    MODEL = "model"
    """A framework's own view of a model call; the gateway's llm span hangs under it."""
    TOOL = "tool"
    REWARD = "reward"
    """A judgement that could not be made, with its reason as the error."""
    OPERATION = "operation"
    MESSAGE = "message"
    OBJECT = "object"


class SpanStatus(StrEnum):
    """How a span ended."""

    OK = "ok"
    ERROR = "error"
    OPEN = "open"
    """Its end was never seen: it was closed with its attempt."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One timed piece of work of an attempt."""

    span_id: str
    trace_id: str
    rollout_id: str
    attempt_id: str
    name: str
    kind: SpanKind
    started_at: float
    """Unix time in seconds."""
    ended_at: float
    parent_id: str | None = None
    role: str | None = None
    """Path of the agent or node names above it, such as `supervisor/writer`."""
    status: SpanStatus = SpanStatus.OK
    error: str | None = None
    attributes: dict[str, Any] = {}


class LLMCall(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway records of one LLM call: the `agl.call` attribute of an llm span."""

    request: dict[str, Any]
    """Body as it was sent upstream: of chat completions, or of text completions with its `prompt`. Of a call that the endpoint took in its own Responses or
    Messages: as chat completions would have it, without `messages` where they have no form for it."""
    response: dict[str, Any] | None
    """The answer as a chat completion (put together again from its chunks when it was streamed), without token ids, logprobs and nulls; None when
    the call failed."""
    choices: list[Choice] = []
    prompt_ids: list[int] | None = None
    """(P,) prompt as the engine tokenised it; None when the endpoint does not tell."""
    version: str | None = None
    """Version of the weights that sampled, as the engine told it."""
    overridden: dict[str, Any] = {}
    """Request fields that the resource set, and prompts by the resource's name, with the agent's own values (None when it had none)."""
    streamed: bool = False
    http_status: int = 200
    retry_of: str | None = None
    """Call id of the SDK when this request is its retry."""
    dialect: str = "chat"
    """What the agent spoke: `chat`, `completions`, `responses`, `messages`."""
    original: dict[str, Any] | None = None
    """Body as the agent sent it, where `request` is a translation or a view of it."""
    first_token_seconds: float | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled answer of a call (`n` of them)."""

    response_ids: list[int] | None = None
    """(T,) sampled token ids, end-of-turn token included where it was sampled; None when the endpoint does not tell."""
    logprobs: list[float] | None = None
    """(T,) natural-log probabilities under the distribution that was sampled from."""
    finish_reason: str | None = None


def answers_of(span: Span) -> list[dict[str, Any]]:
    """The messages that a recorded LLM call was answered with; none when it failed or spoke no chat completions."""
    call: dict[str, Any] = span.attributes.get("agl.call") or {}
    response: dict[str, Any] = call.get("response") or {}
    choices: list[dict[str, Any]] = response.get("choices") or []
    return [choice.get("message") or {"content": choice.get("text")} for choice in choices]


def new_span_id() -> str:
    """A fresh OpenTelemetry span id: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def new_trace_id() -> str:
    """A fresh OpenTelemetry trace id: 32 hexadecimal digits."""
    return secrets.token_hex(16)
