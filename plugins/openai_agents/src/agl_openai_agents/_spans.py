"""What a span of the SDK tells, in the names of the conventions for generative AI where they have one. Imports no framework."""

from __future__ import annotations

from typing import Any

from agl.spans import SpanKind
from agl.values import jsonable

KINDS = {"agent": SpanKind.AGENT, "function": SpanKind.TOOL, "generation": SpanKind.MODEL, "response": SpanKind.MODEL}
"""Kinds by the SDK's type; any other is an operation."""


def name_of(data: Any) -> str:
    """The name of a span, as far as it is known by now."""
    if data.type == "handoff":
        return f"handoff to {data.to_agent}" if data.to_agent else "handoff"
    if data.type in ("generation", "response"):
        return f"chat {_model(data) or ''}".strip()
    return str(getattr(data, "name", None) or data.type)


def attributes_of(span: Any, asked: list[Any]) -> dict[str, Any]:
    """What is known of a span at its end.

    Args:
        span: of the SDK.
        asked: tool calls in the model's last answer that have no span yet; the span's own is taken out.
    """
    data = span.span_data
    ids = {"agl.openai_agents.span_id": span.span_id, "agl.openai_agents.trace_id": span.trace_id}
    if data.type == "function":
        return ids | _function(data, asked)
    of_type = {"agent": _agent, "generation": _generation, "response": _generation, "handoff": _handoff}
    return ids | of_type.get(data.type, _other)(data)


def error_of(span: Any) -> str | None:
    """What went wrong; None when nothing did."""
    error = span.error
    if error is None:
        return None
    told = jsonable(error.get("data"))
    return f"{error.get('message')}: {told}" if told else str(error.get("message"))


def _agent(data: Any) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": data.name,
        "agl.tools": jsonable(data.tools),
        "agl.handoffs": jsonable(data.handoffs),
        "agl.output_type": data.output_type,
    }


def _function(data: Any, asked: list[Any]) -> dict[str, Any]:
    fits = [call for call in asked if call.name == data.name and data.input in (None, call.arguments)]
    if fits:
        asked.remove(fits[0])
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": data.name,
        "gen_ai.tool.call.id": fits[0].call_id if fits else None,
        "gen_ai.tool.call.arguments": jsonable(data.input),
        "gen_ai.tool.call.result": jsonable(data.output),
        "agl.mcp": jsonable(data.mcp_data),
    }


def _generation(data: Any) -> dict[str, Any]:
    """Without messages: the gateway's span below it holds the whole call."""
    usage = data.usage or {}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": _model(data),
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
    }


def _handoff(data: Any) -> dict[str, Any]:
    return {"agl.handoff.source": data.from_agent, "agl.handoff.target": data.to_agent}


def _other(data: Any) -> dict[str, Any]:
    told = {name: value for name, value in (data.export() or {}).items() if name not in ("type", "name") and value is not None}
    return {"agl.openai_agents.type": data.type, "agl.data": jsonable(told) if told else None}


def _model(data: Any) -> str | None:
    return getattr(data, "model", None) or getattr(getattr(data, "response", None), "model", None)
