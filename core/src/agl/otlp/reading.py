"""Spans of an instrumented agent as spans of its attempt.

Ids, parents and GenAI attributes stay as they are. A model call among them is the agent's own view of it (kind `model`): what is
learned from is only the gateway's record of the call, which hangs below where the client sent a `traceparent`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agl.context import ActiveAttempt
from agl.errors import DataError
from agl.otlp.messages import OTLPSpan, ResourceSpans, ScopeSpans, Traces, attributes_of
from agl.spans import Span, SpanKind, SpanStatus
from agl.values import jsonable

MAX_ATTRIBUTES = 128
"""Of one span, as OpenTelemetry's SDKs limit them."""
MAX_NAME = 256
ROLE_ATTRIBUTE = "agl.role"
_OWN = "agl."
"""Names under it are AGL's: an agent cannot write records that are taken for them."""
_OPERATIONS = {
    "chat": SpanKind.MODEL,
    "text_completion": SpanKind.MODEL,
    "generate_content": SpanKind.MODEL,
    "embeddings": SpanKind.MODEL,
    "execute_tool": SpanKind.TOOL,
    "invoke_agent": SpanKind.AGENT,
    "create_agent": SpanKind.AGENT,
    "invoke_workflow": SpanKind.NODE,
}
"""By `gen_ai.operation.name` of the semantic conventions."""
_OTHERS = {
    "llm": SpanKind.MODEL,
    "embedding": SpanKind.MODEL,
    "tool": SpanKind.TOOL,
    "agent": SpanKind.AGENT,
    "chain": SpanKind.NODE,
    "workflow": SpanKind.NODE,
    "task": SpanKind.NODE,
}
"""By the kinds of OpenInference and Traceloop."""
_TRACE_ID, _SPAN_ID = re.compile(r"(?!0+$)[0-9a-f]{32}"), re.compile(r"(?!0+$)[0-9a-f]{16}")


def spans_of(traces: Traces, attempt: ActiveAttempt) -> tuple[list[Span], list[str]]:
    """The spans of a request as those of an attempt, and why others are not taken."""
    spans: list[Span] = []
    refused: list[str] = []
    for resource in traces.resource_spans:
        for scope in resource.scope_spans:
            for given in scope.spans:
                try:
                    spans.append(_span(given, resource, scope, attempt))
                except (DataError, ValueError, RecursionError) as error:
                    refused.append(f"span `{given.name[:MAX_NAME]}`: {error}")
    return spans, refused


def _span(given: OTLPSpan, resource: ResourceSpans, scope: ScopeSpans, attempt: ActiveAttempt) -> Span:
    span_id = _id(_SPAN_ID, given.span_id, "spanId", 16)
    if span_id == attempt.root_id:
        raise DataError("its id is that of the attempt itself")
    parent_id = _id(_SPAN_ID, given.parent_span_id, "parentSpanId", 16) if given.parent_span_id.strip("0") else attempt.root_id
    told = attributes_of(given.attributes)
    started, ended = _seconds(given.start_time_unix_nano), _seconds(given.end_time_unix_nano)
    error = _error(given)
    return Span(
        rollout_id=attempt.rollout.rollout_id,
        attempt_id=attempt.attempt_id,
        span_id=span_id,
        name=given.name[:MAX_NAME],
        kind=_kind(told),
        started_at=started,
        ended_at=max(ended, started),
        parent_id=parent_id,
        role=str(told[ROLE_ATTRIBUTE])[:MAX_NAME] if told.get(ROLE_ATTRIBUTE) else None,
        status=SpanStatus.ERROR if error is not None else SpanStatus.OK if ended else SpanStatus.OPEN,
        error=error,
        trace_id=_id(_TRACE_ID, given.trace_id, "traceId", 32),
        attributes=_kept(told) | _about(given, resource, scope),
    )


def _id(form: re.Pattern[str], given: str, name: str, digits: int) -> str:
    value = given.lower()
    if not form.fullmatch(value):
        raise DataError(f"`{name}` must be {digits} hexadecimal digits that are not all 0, given was `{given[:64]}`")
    return value


def _seconds(nanoseconds: int | str) -> float:
    try:
        return int(nanoseconds) / 1e9
    except (ValueError, OverflowError):
        raise DataError(f"a time must be nanoseconds since 1970, given was `{str(nanoseconds)[:64]}`") from None


def _kind(told: dict[str, Any]) -> SpanKind:
    operation = _OPERATIONS.get(str(told.get("gen_ai.operation.name")))
    other = str(told.get("openinference.span.kind") or told.get("traceloop.span.kind") or "").lower()
    return operation or _OTHERS.get(other, SpanKind.OPERATION)


def _error(given: OTLPSpan) -> str | None:
    """What went wrong, in the words of the status or of the exception; None when nothing is said to have."""
    if given.status is None or given.status.code != 2:
        return None
    raised = [attributes_of(event.attributes) for event in given.events if event.name == "exception"]
    words = [f"{item.get('exception.type')}: {item.get('exception.message')}" for item in raised]
    return str(jsonable(given.status.message or next(iter(words), "the span says that it failed")))


def _kept(told: dict[str, Any]) -> dict[str, Any]:
    """Attributes without AGL's own names, secrets and what is too long."""
    names = [name for name in told if not name.startswith(_OWN) and len(name) <= MAX_NAME][:MAX_ATTRIBUTES]
    return {name: jsonable({name: _opened(name, told[name])})[name] for name in names}


def _opened(name: str, value: Any) -> Any:
    """What the conventions write as a text of JSON, as JSON: it is cut where values are, and stays readable."""
    if name.startswith("gen_ai.") and isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    return value


def _about(given: OTLPSpan, resource: ResourceSpans, scope: ScopeSpans) -> dict[str, Any]:
    service = attributes_of(resource.resource.attributes).get("service.name") if resource.resource else None
    events = [{"name": event.name, "at": _seconds(event.time_unix_nano), **attributes_of(event.attributes)} for event in given.events]
    links = [{"trace_id": link.trace_id, "span_id": link.span_id} for link in given.links]
    found = {
        "service.name": service,
        "otel.scope.name": scope.scope.name if scope.scope else None,
        "agl.events": events,
        "agl.links": links,
    }
    return {name: jsonable(value) for name, value in found.items() if value}
