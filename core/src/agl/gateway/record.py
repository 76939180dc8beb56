"""What is kept of an LLM call: the request as sent, the answer as received, the engine's tokens taken out of it."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import msgspec

from agl.gateway.answers import Logprobs
from agl.gateway.dialects.native import Native
from agl.resources import LLM
from agl.rollouts import Rollout
from agl.spans import Choice, LLMCall, Span, SpanKind, SpanStatus


class Exchange(msgspec.Struct, kw_only=True):
    """One call on its way through the gateway."""

    span_id: str
    trace_id: str
    parent_id: str | None
    role: str | None
    call_id: str | None
    retry_of: str | None
    dialect: str
    original: dict[str, Any] | None
    """Body as the agent sent it, where what goes upstream is a translation of it."""
    sent: dict[str, Any]
    """Body as it goes upstream; where that is `native`, its view as a chat."""
    overridden: dict[str, Any]
    version: str | None
    started_at: float
    native: Native | None = None
    """The request as it goes on, where the endpoint speaks its dialect itself."""
    retry_count: int = 0
    """Of the client's SDK: how often it has sent this before."""
    first_token_at: float | None = None
    endpoint: str | None = None
    """Address that the call went to last, where the model has several."""
    tries: int = 0
    """Requests that were made for this one."""


def upstream_body(
    asked: dict[str, Any], llm: LLM, rollout: Rollout, seed: int, token_fields: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body to send upstream, and the fields in which it differs from the agent's (with the agent's own values).

    Args:
        asked: the request as the upstream's route takes it.
        token_fields: what is asked of an engine under training; a number stays that is asked for already.
        seed: for this call; sent when the resource is `seeded` and the agent names none.
    """
    sets: dict[str, Any] = {"model": llm.model, **llm.parameters(str(rollout.mode))}
    for ours, theirs in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        if ours in sets and theirs not in sets and asked.get(theirs) is not None:  # one limit, under the agent's name for it
            sets[theirs] = sets.pop(ours)
            break
    if "prompt" in asked and "messages" not in asked and "max_completion_tokens" in sets:  # text completions know the older name only
        sets["max_tokens"] = sets.pop("max_completion_tokens")
    if llm.version is not None:
        sets |= {name: value for name, value in token_fields.items() if type(value) is bool or not asked.get(name)}
        if asked.get("stream"):  # the record of a streamed call has what an unstreamed one would have
            options: Any = asked.get("stream_options")
            sets["stream_options"] = {**(cast("dict[str, Any]", options) if isinstance(options, dict) else {}), "include_usage": True}
    if llm.seeded and asked.get("seed") is None:
        sets.setdefault("seed", seed)
    overridden = {name: asked.get(name) for name, value in sets.items() if asked.get(name) != value}
    return {**asked, **sets}, overridden


def call_seed(seed: int, role: str | None, number: int) -> int:
    """Seed of a rollout's n-th call in a role: (,) below 2**31, so that every engine takes it.

    Numbers count within a role, so that parallel branches get the same seeds whichever comes first.
    """
    digest = hashlib.blake2b(f"{seed}:{role or ''}:{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def answer_for_agent(response: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The response without what only the gateway asked for."""
    choices: list[dict[str, Any]] = []
    for choice in _choices(response):
        kept = {name: value for name, value in choice.items() if name != "token_ids" or asked.get("return_token_ids")}
        if not asked.get("logprobs"):
            kept["logprobs"] = None
        choices.append(kept)
    keep_prompt = bool(asked.get("return_token_ids"))
    return {name: value for name, value in response.items() if keep_prompt or name != "prompt_token_ids"} | {"choices": choices}


def make_span(
    exchange: Exchange,
    attempt_id: str,
    rollout_id: str,
    *,
    response: dict[str, Any] | None,
    status: int,
    error: str | None,
    ended_at: float,
) -> Span:
    """The llm span of a call that ended, well or not."""
    told = (response or {}).get("weight_version")
    call = LLMCall(
        request=exchange.sent,
        response=None if response is None else _without_nulls(answer_for_agent(response, {})),
        choices=[_choice(choice) for choice in _choices(response or {})],
        prompt_ids=_ids((response or {}).get("prompt_token_ids")),
        version=None if response is None else exchange.version if told is None else str(told),
        overridden=exchange.overridden,
        streamed=bool(exchange.sent.get("stream")),
        http_status=status,
        retry_of=exchange.retry_of,
        dialect=exchange.dialect,
        original=exchange.original,
        first_token_seconds=exchange.first_token_at and exchange.first_token_at - exchange.started_at,
    )
    return Span(
        span_id=exchange.span_id,
        trace_id=exchange.trace_id,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        name=f"{_operation(exchange)} {exchange.sent.get('model')}",
        kind=SpanKind.LLM,
        started_at=exchange.started_at,
        ended_at=ended_at,
        parent_id=exchange.parent_id,
        role=exchange.role,
        status=SpanStatus.ERROR if error else SpanStatus.OK,
        error=error,
        attributes=_attributes(exchange, response or {}) | {"agl.call_id": exchange.call_id, "agl.call": msgspec.to_builtins(call)},
    )


def _without_nulls(response: dict[str, Any]) -> dict[str, Any]:
    """A response without fields that say nothing: whole and streamed answers differ in which of them they have."""
    for choice in response["choices"]:
        message: Any = choice.get("message")
        if isinstance(message, dict):
            told = {name: value for name, value in cast(dict[str, Any], message).items() if value is not None and value != []}
            choice["message"] = told | {"content": told.get("content") or (None if "tool_calls" in told else "")}
    return {name: value for name, value in response.items() if value is not None}


def _operation(exchange: Exchange) -> str:
    """The word of the GenAI conventions."""
    return "text_completion" if exchange.dialect == "completions" else "chat"


def _choices(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [cast(dict[str, Any], choice) for choice in _list(response.get("choices")) if isinstance(choice, dict)]


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _choice(choice: dict[str, Any]) -> Choice:
    return Choice(
        response_ids=_ids(choice.get("token_ids")), logprobs=_logprobs(choice.get("logprobs")), finish_reason=choice.get("finish_reason")
    )


def _ids(value: Any) -> list[int] | None:
    """Token ids, or None where the endpoint told something else."""
    try:
        return msgspec.convert(value, list[int])  # takes no float and no bool for a whole number
    except msgspec.ValidationError:
        return None


def _logprobs(value: Any) -> list[float] | None:
    if isinstance(value, Logprobs):
        return value.values()
    try:
        return [float(entry["logprob"]) for entry in value["content"]]
    except (KeyError, TypeError, ValueError):
        return None


def _attributes(exchange: Exchange, response: dict[str, Any]) -> dict[str, Any]:
    usage: dict[str, Any] = response.get("usage") or {}
    values: dict[str, Any] = {
        "gen_ai.operation.name": _operation(exchange),
        "gen_ai.request.model": exchange.sent.get("model"),
        "gen_ai.request.temperature": exchange.sent.get("temperature"),
        "gen_ai.request.max_tokens": exchange.sent.get("max_tokens") or exchange.sent.get("max_completion_tokens"),
        "gen_ai.response.id": response.get("id"),
        "gen_ai.response.model": response.get("model"),
        "gen_ai.response.finish_reasons": [choice.get("finish_reason") for choice in _choices(response)],
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "agl.retry_count": exchange.retry_count or None,
        "agl.endpoint": exchange.endpoint,
        "agl.tries": exchange.tries if exchange.tries > 1 else None,
    }
    return {name: value for name, value in values.items() if value is not None}
