"""CrewAI's events, turned into the runs of a trace: what each starting event opens, and what its ending events tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from agl.spans import SpanKind
from agl.values import jsonable
from agl_crewai import _names
from agl_crewai._tracing import Trace

_ENDINGS = ("_completed", "_finished", "_failed", "_error", "_paused")


class _Start(NamedTuple):
    """What a starting event opens."""

    kind: SpanKind
    name: Callable[[Any, Any], Any]
    """Source and event -> the span's name."""
    about: Callable[[Any, Any], dict[str, Any]]
    """Source and event -> the span's attributes."""
    named: bool = True
    """Whether the name is a part of the role."""


def _crew(source: Any, event: Any) -> dict[str, Any]:
    return {"gen_ai.operation.name": "invoke_agent", "agl.crewai.crew_id": str(source.id), "agl.input": jsonable(event.inputs)}


def _task(source: Any, event: Any) -> dict[str, Any]:
    return {"agl.crewai.task_id": str(source.id), "agl.input": jsonable({"description": source.description, "context": event.context})}


def _agent(source: Any, event: Any) -> dict[str, Any]:
    given = event.task_prompt if hasattr(event, "task_prompt") else event.messages
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": " ".join(str(source.role).split()),
        "gen_ai.agent.id": str(source.id),
        "agl.crewai.agent_key": source.key,
        "agl.input": jsonable(given),
    }


def _tool(source: Any, event: Any) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": event.tool_name,
        "gen_ai.tool.call.arguments": jsonable(event.tool_args),
    }


def _model(source: Any, event: Any) -> dict[str, Any]:
    return {"gen_ai.operation.name": "chat", "gen_ai.request.model": event.model, "agl.crewai.call_id": event.call_id}


def _flow(source: Any, event: Any) -> dict[str, Any]:
    return {"agl.crewai.flow_id": str(source.flow_id), "agl.input": jsonable(event.inputs)}


_AGENT = _Start(SpanKind.AGENT, lambda source, event: _names.agent_name(source), _agent)
_STARTS = {
    "crew_kickoff_started": _Start(SpanKind.AGENT, lambda source, event: _names.crew_name(source), _crew),
    "task_started": _Start(SpanKind.NODE, lambda source, event: source.name or "task", _task, named=False),
    "agent_execution_started": _AGENT,
    "lite_agent_execution_started": _AGENT,
    "flow_started": _Start(SpanKind.AGENT, lambda source, event: _names.part(event.flow_name), _flow),
    "method_execution_started": _Start(
        SpanKind.NODE, lambda source, event: _names.part(event.method_name), lambda source, event: {"agl.input": jsonable(event.params)}
    ),
    "tool_usage_started": _Start(SpanKind.TOOL, lambda source, event: event.tool_name, _tool, named=False),
    "llm_call_started": _Start(SpanKind.MODEL, lambda source, event: f"chat {event.model}", _model, named=False),
    "llm_guardrail_started": _Start(SpanKind.OPERATION, lambda source, event: "guardrail", lambda source, event: {}, named=False),
}
_ENDS = {start.removesuffix("_started") + ending: start for start in _STARTS for ending in _ENDINGS}
"""The starting event of each ending one."""


def seen(trace: Trace, source: Any, event: Any) -> None:
    """Record what an event tells, in the context that the event is emitted in."""
    if event.type in _STARTS:
        if not _is_inner(source, event):
            start = _STARTS[event.type]
            trace.start(event, start.kind, start.name(source, event), start.about(source, event), named=start.named)
    elif event.type in _ENDS:
        if not _is_inner(source, event):
            _ended(trace, source, event)
    elif event.type == "llm_stream_chunk":
        run = trace.find(event, "llm_call_started")
        if run is not None:
            run.attributes.setdefault("agl.first_token_seconds", time.time() - run.started)


def starts_work(event: Any) -> bool:
    """Whether an event comes before a step that costs something."""
    return event.type in ("task_started", "agent_execution_started", "llm_call_started", "tool_usage_started", "method_execution_started")


def _is_inner(source: Any, event: Any) -> bool:
    """The loop of an agent is a flow itself, which says nothing that the agent's own run does not."""
    return event.type.startswith(("flow_", "method_execution_")) and _names.is_the_frameworks_own(source)


def _ended(trace: Trace, source: Any, event: Any) -> None:
    run = trace.find(event, _ENDS[event.type])
    if run is None:
        return
    if event.type == "llm_call_completed":
        trace.warn_of_unrouted(run, source)
    error = getattr(event, "error", None)
    trace.end(run, _told(event), None if error is None else _one_line(error))


def _told(event: Any) -> dict[str, Any]:
    if event.type == "llm_call_completed":
        return _usage(event)
    given = next((getattr(event, name) for name in ("output", "result") if getattr(event, name, None) is not None), None)
    if given is None:
        return {}
    given = getattr(given, "raw", given)  # what stands around the text of a crew's output is in the spans of its tasks
    return {"gen_ai.tool.call.result" if event.type.startswith("tool_") else "agl.output": jsonable(given)}


def _usage(event: Any) -> dict[str, Any]:
    usage = event.usage or {}
    return {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.response.id": event.response_id,
        "gen_ai.response.finish_reasons": [event.finish_reason] if event.finish_reason else None,
    }


def _one_line(error: Any) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    return text.strip().partition("\n")[0][:2000] or "failed"
