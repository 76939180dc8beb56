"""The runs of one attempt (crews, tasks, agents, tools, model calls, flows) as spans: who is inside whom. Imports no framework."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agl import context
from agl.context import ActiveAttempt
from agl.spans import SpanKind, SpanStatus, new_span_id

log = logging.getLogger("agl.crewai")

_TRACE: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("agl_crewai_trace", default=None)
_RUN: contextvars.ContextVar[Run | None] = contextvars.ContextVar("agl_crewai_run", default=None)

_unrouted: set[tuple[str, str]] = set()
"""Models that were warned about, with their classes."""


class Run:
    """One run of the framework, from its starting to its ending event."""

    def __init__(self, event: Any, kind: SpanKind, name: str, role: str | None, parent_id: str, attributes: dict[str, Any]) -> None:
        self.event_id, self.type, self.call_id = event.event_id, event.type, getattr(event, "call_id", None)
        self.kind, self.name, self.role, self.parent_id, self.attributes = kind, name, role, parent_id, attributes
        self.span_id, self.started, self.open = new_span_id(), time.time(), True
        self.outer = current_run()


class Trace:
    """Everything recorded of one attempt; used by many threads and tasks at once."""

    def __init__(self, attempt: ActiveAttempt) -> None:
        self.attempt = attempt
        self.closed = False
        self._open: dict[str, Run] = {}

    def start(self, event: Any, kind: SpanKind, name: str, attributes: Mapping[str, Any], *, named: bool) -> None:
        """A run starts below what is current here, and becomes current; a `named` one adds its name to the role."""
        around = context.current_role()
        role = "/".join(part for part in (around, name) if part) if named else around
        known = {key: value for key, value in attributes.items() if value is not None}
        run = Run(event, kind, name, role, context.current_span() or self.attempt.root_id, known)
        if kind == SpanKind.TOOL and run.outer is not None and run.outer.span_id in self.attempt.call_spans:
            context.set_call(run.outer.span_id)  # rewards of the tool belong to the call that asked for it
        self._open[run.event_id] = run
        # The role holds as long as the span that is current when it is set.
        _RUN.set(run)
        context.set_span(run.span_id)
        context.set_role(role)

    def find(self, event: Any, started: str) -> Run | None:
        """The open run that an event is about: the one it names, else the innermost of the right type in this context.

        A failed model call is told twice by the framework, which then names the wrong starts for all that fails around it.
        """
        call_id = getattr(event, "call_id", None)
        run = self._open.get(event.started_event_id or "")
        if run is not None and run.type == started:
            return run
        run = current_run()
        while run is not None and not (run.open and run.type == started and run.call_id == call_id):
            run = run.outer
        return run

    def end(self, run: Run, attributes: Mapping[str, Any] | None = None, error: str | None = None) -> None:
        """A run ended; a second call does nothing."""
        if self._open.pop(run.event_id, None) is None:
            return
        run.attributes.update({key: value for key, value in (attributes or {}).items() if value is not None})
        calls = self.attempt.call_spans
        if run.span_id in calls:  # rewards that the code around emits next belong to the call made last in here
            calls[run.parent_id] = calls[run.span_id]
            context.set_call(run.span_id)
        self._record(run, SpanStatus.ERROR if error else SpanStatus.OK, error)

    def close(self) -> None:
        """The attempt ends: runs whose end was never told are recorded as open."""
        self.closed = True
        for run in list(self._open.values()):
            if self._open.pop(run.event_id, None) is not None:
                self._record(run, SpanStatus.OPEN, None)

    def warn_of_unrouted(self, run: Run, llm: Any) -> None:
        """Say once that the calls of a model do not come to the attempt's endpoint."""
        attempt, key = self.attempt, (type(llm).__name__, str(getattr(llm, "model", "")))
        if run.span_id in attempt.call_spans or attempt.llm_for(run.role) is None or key in _unrouted:
            return
        _unrouted.add(key)
        log.warning(
            "the calls of the role `%s` to the model `%s` (%s) do not use the OpenAI SDK: they went to their own endpoint and are not "
            'learned from; give the agent a model of CrewAI\'s OpenAI provider, such as `LLM(model="openai/…")`, or set '
            "`roles={%r: 'original'}` to leave them alone",
            run.role,
            key[1],
            key[0],
            run.role,
        )

    def _record(self, run: Run, status: SpanStatus, error: str | None) -> None:
        run.open = False
        self.attempt.add_span(
            self.attempt.make_span(
                span_id=run.span_id,
                name=run.name,
                kind=run.kind,
                started_at=run.started,
                parent_id=run.parent_id,
                role=run.role,
                status=status,
                error=error,
                attributes=run.attributes,
            )
        )


def current_run() -> Run | None:
    """The innermost run that has not ended."""
    run = _RUN.get()
    while run is not None and not run.open:
        run = run.outer
    return run


def current_trace() -> Trace | None:
    """The trace of the attempt that this code runs in."""
    trace = _TRACE.get()
    return trace if trace is not None and not trace.closed else None


def is_over() -> bool:
    """Whether this code belongs to an attempt that has ended: a thread that nobody could stop."""
    trace = _TRACE.get()
    return trace is not None and trace.closed


@contextlib.contextmanager
def traced(attempt: ActiveAttempt) -> Iterator[Trace]:
    """Record the framework's runs in this context as spans of the attempt."""
    trace = Trace(attempt)
    tokens = _TRACE.set(trace), _RUN.set(None)
    try:
        yield trace
    finally:
        trace.close()
        _TRACE.reset(tokens[0])
        _RUN.reset(tokens[1])
