"""Spans of a rollout as OTLP, under the names that tools for traces of language models read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from agl.otlp.messages import Event, KeyValue, OTLPSpan, Status, any_value, pairs_of
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.spans import Span, SpanKind, SpanStatus
from agl.values import jsonable, redacted

TEXT = 20_000
"""Characters sent of one text of a model call; the store has the rest."""
CLIENT, INTERNAL = 3, 1
"""OpenTelemetry's kinds of spans."""
OPENINFERENCE = {
    SpanKind.AGENT: "AGENT",
    SpanKind.NODE: "CHAIN",
    SpanKind.LLM: "LLM",
    SpanKind.MODEL: "CHAIN",
    SpanKind.TOOL: "TOOL",
    SpanKind.REWARD: "EVALUATOR",
}
"""A framework's own view of a call is no second LLM span: tokens and costs are counted once."""
_ANSWER_ID = re.compile(r'\{\s*"id":\s*"([^"]+)"')
_USAGE = ("gen_ai.usage.", "llm.token_count.")
_TOKEN_COUNTS = {
    "gen_ai.usage.input_tokens": "llm.token_count.prompt",
    "gen_ai.usage.output_tokens": "llm.token_count.completion",
    "gen_ai.response.model": "llm.model_name",
}


def spans_to_send(result: RolloutResult) -> list[OTLPSpan]:
    """The spans of a rollout's latest attempt, in one trace, with its rewards as events."""
    root = next((span for span in result.spans if span.parent_id is None), None)
    views = _views(result.spans)
    known = {span.span_id for span in result.spans}
    made: list[OTLPSpan] = []
    for span in result.spans:
        judged = [reward for reward in result.rewards if _judges(reward, span, root, known)]
        trace_id = root.trace_id if root else span.trace_id
        about = _about_rollout(result) if span is root else {}
        if span.trace_id != trace_id:
            about["agl.trace_id"] = span.trace_id
        if span.span_id in views:  # None leaves an attribute out
            about |= {name: None for name in span.attributes if name.startswith(_USAGE)}
        made.append(_span(span, trace_id, about, judged, known, root))
    return made


def _views(spans: Sequence[Span]) -> set[str]:
    """The agent's own views of calls that the gateway recorded: below them, or with the id of the answer that they tell."""
    by_id = {span.span_id: span for span in spans}
    calls = [span for span in spans if span.kind == SpanKind.LLM]
    answers = {str(span.attributes["gen_ai.response.id"]) for span in calls if span.attributes.get("gen_ai.response.id")}
    found = {span.span_id for span in spans if span.kind == SpanKind.MODEL and _answer_id(span) in answers}
    for span in calls:
        above = by_id.get(span.parent_id or "")
        seen: set[str] = set()
        while above is not None and above.span_id not in seen:
            seen.add(above.span_id)
            if above.kind == SpanKind.MODEL:
                found.add(above.span_id)
            above = by_id.get(above.parent_id or "")
    return found


def _answer_id(span: Span) -> str | None:
    """The id of the answer that a model call was given: OpenInference has it in the answer alone."""
    told = span.attributes.get("gen_ai.response.id")
    if told is None and (match := _ANSWER_ID.match(str(span.attributes.get("output.value") or ""))):
        told = match[1]
    return None if told is None else str(told)


def _judges(reward: Reward, span: Span, root: Span | None, known: set[str]) -> bool:
    return reward.span_id == span.span_id or (span is root and reward.span_id not in known)


def _span(span: Span, trace_id: str, about: dict[str, Any], rewards: list[Reward], known: set[str], root: Span | None) -> OTLPSpan:
    parent = span.parent_id if span.parent_id in known else root.span_id if root is not None and span is not root else ""
    return OTLPSpan(
        trace_id=trace_id,
        span_id=span.span_id,
        parent_span_id=parent or "",
        name=span.name,
        kind=CLIENT if span.kind == SpanKind.LLM else INTERNAL,
        start_time_unix_nano=_nanoseconds(span.started_at),
        end_time_unix_nano=_nanoseconds(span.ended_at),
        attributes=pairs_of(_attributes(span) | about),
        events=[_reward_event(reward) for reward in rewards],
        status=_status(span),
    )


def _status(span: Span) -> Status:
    if span.status == SpanStatus.ERROR:
        return Status(code=2, message=str(jsonable(span.error or "")))
    return Status(code=1 if span.status == SpanStatus.OK else 0)


def _nanoseconds(seconds: float) -> str:
    return str(round(seconds * 1e9))


def _about_rollout(result: RolloutResult) -> dict[str, Any]:
    rollout = result.rollout
    return {
        "agl.rollout_id": rollout.rollout_id,
        "agl.group_id": rollout.group_id,
        "agl.task_id": rollout.task.task_id,
        "agl.mode": str(rollout.mode),
        "agl.step": rollout.step,
        "agl.resources_version": rollout.resources_version,
        "agl.reward": result.reward,
        "agl.failure": str(result.failure) if result.failure else None,
        "input.value": _text(jsonable(rollout.task.data)),
        "input.mime_type": "application/json",
    }


def _attributes(span: Span) -> dict[str, Any]:
    """What a span says: GenAI and OpenInference names for what they have names for, no tokens, no keys."""
    found = {name: jsonable({name: value})[name] for name, value in span.attributes.items() if name != "agl.call"}
    kind = OPENINFERENCE.get(span.kind, "CHAIN")
    found |= {"agl.kind": str(span.kind), "agl.role": span.role, "openinference.span.kind": kind}
    if span.kind == SpanKind.LLM:
        found |= _call(span.attributes.get("agl.call") or {})
        found |= {theirs: found[ours] for ours, theirs in _TOKEN_COUNTS.items() if found.get(ours) is not None}
        return found
    inputs = found.get("gen_ai.tool.call.arguments", found.get("input", found.get("input.value")))
    outputs = found.get("gen_ai.tool.call.result", found.get("output", found.get("output.value")))
    return {**found, "input.value": _optional(inputs), "output.value": _optional(outputs)}


def size_of(span: OTLPSpan) -> int:
    """Characters of a span's texts, about what it takes on the wire."""
    return sum(len(pair.value.string_value or "") for pair in span.attributes if pair.value is not None)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Messages of a recorded call: those sent (chat completions' or another dialect's) and those that came back."""
    request: dict[str, Any] = call.get("request") or {}
    response: dict[str, Any] = call.get("response") or {}
    sent = request.get("messages") or request.get("input") or request.get("prompt")
    choices = cast("list[dict[str, Any]]", response.get("choices") or [])
    came = [choice.get("message") or {"role": "assistant", "content": choice.get("text")} for choice in choices]
    reasons = [str(choice.get("finish_reason") or "unknown") for choice in choices]
    return {
        "gen_ai.input.messages": _optional(_messages(sent)),
        "gen_ai.output.messages": _optional(
            [{**message, "finish_reason": reason} for message, reason in zip(_messages(came) or [], reasons, strict=True)] or None
        ),
        "input.value": _optional([{**message, "content": _cut(message.get("content"))} for message in _objects(sent)] or sent),
        "input.mime_type": "application/json",
        "output.value": _optional(_said(came[0])) if came else None,
    }


def _said(message: dict[str, Any]) -> Any:
    """What an answer says: its text, or all of it where there are tool calls."""
    return message if message.get("tool_calls") or not message.get("content") else _cut(message["content"])


def _messages(given: Any) -> list[dict[str, Any]] | None:
    """Messages of chat completions in the form of the GenAI conventions: a role and parts."""
    if isinstance(given, str):
        return [{"role": "user", "parts": [{"type": "text", "content": _cut(given)}]}]
    return [{"role": str(item.get("role")), "parts": _parts(item)} for item in _objects(given)] or None


def _objects(given: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", given) if isinstance(given, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _cut(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= TEXT else f"{value[:TEXT]}… ({len(value)} characters)"


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = _cut(message.get("content"))
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    parts: list[dict[str, Any]] = [] if content in (None, "") else [{"type": "text", "content": content}]
    for call in cast("list[dict[str, Any]]", message.get("tool_calls") or []):
        function: dict[str, Any] = call.get("function") or {}
        parts.append(
            {"type": "tool_call", "id": call.get("id"), "name": function.get("name"), "arguments": _cut(function.get("arguments"))}
        )
    return parts


def _reward_event(reward: Reward) -> Event:
    told = {"agl.reward.name": reward.name, "agl.reward.value": reward.value, "agl.reward.source": reward.source, "agl.role": reward.role}
    pairs = [KeyValue(name, any_value(value)) for name, value in told.items() if value is not None]
    return Event(name="agl.reward", time_unix_nano=_nanoseconds(reward.created_at), attributes=pairs)


def _optional(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return redacted(text)
