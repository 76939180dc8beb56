"""The runs of one attempt as spans: who is inside whom, which span and role are current. Imports no framework."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agl import context
from agl.context import ActiveAttempt
from agl.spans import SpanKind, SpanStatus, new_span_id
from agl_langgraph._roles import Place, graph_path, place_of

_TRACE: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("agl_langgraph_trace", default=None)
_SET_ROLE: contextvars.ContextVar[str | None] = contextvars.ContextVar("agl_langgraph_role", default=None)
"""The role that a run set last in this context; where the current role differs, user code may have set that."""


class Run:
    """One run of the framework, open or ended."""

    def __init__(self, kind: SpanKind, name: str, outer: Run | None, parent_id: str, place: Place, attributes: dict[str, Any]) -> None:
        self.kind, self.name, self.outer, self.parent_id, self.place, self.attributes = kind, name, outer, parent_id, place, attributes
        self.span_id, self.started, self.open = new_span_id(), time.time(), True
        self.agent: Any = None
        self.outer_span: str | None = None
        self.outer_role: str | None = None
        self.left_role: str | None = None
        self.outer_set_role: str | None = None


class Trace:
    """Everything recorded of one attempt; used by many threads and tasks at once."""

    def __init__(self, attempt: ActiveAttempt) -> None:
        self.attempt = attempt
        self.closed = False
        self.handler: Any = None
        """The framework's callback object, made when the framework first asks for it."""
        self._runs: dict[Any, Run] = {}
        self._open: dict[Any, Run] = {}
        self._by_span: dict[str, Run] = {}

    def start(
        self,
        kind: SpanKind,
        name: str,
        run_id: Any,
        parent_run_id: Any,
        metadata: Mapping[str, Any],
        attributes: dict[str, Any],
        *,
        given_name: str | None = None,
    ) -> None:
        """A run starts, in the context that its work is done in."""
        if self.closed:
            return
        current = context.current_span() or self.attempt.root_id
        outer = self._runs.get(parent_run_id) or self._innermost_open(current)
        role, set_role = context.current_role(), _SET_ROLE.get()
        changed = role != set_role and (outer is None or role != outer.left_role)
        place = place_of(outer.place if outer else None, metadata, given_name, role, changed=changed)
        run = Run(kind, name, outer, self._parent_of(outer, current), place, attributes)
        run.agent = metadata.get("lc_agent_name")
        if kind == SpanKind.NODE and (outer is None or run.agent != outer.agent):
            run.kind = SpanKind.AGENT
        self._runs[run_id] = self._open[run_id] = self._by_span[run.span_id] = run
        run.outer_span, run.outer_role, run.outer_set_role = current, role, set_role
        context.set_span(run.span_id)
        # Until the model is called here, rewards belong to the call made last anywhere; then to the call under this span.
        context.set_call(run.span_id if kind == SpanKind.MODEL else None)
        # A plain chain has steps of its own in contexts of their own; only who may call a model is named.
        if place.role != role and (kind == SpanKind.MODEL or graph_path(metadata)):
            context.set_role(place.role)
            _SET_ROLE.set(place.role)
        run.left_role = context.current_role()

    def first_token(self, run_id: Any) -> None:
        """A token of a streamed answer has come."""
        run = self._open.get(run_id)
        if run is not None:
            run.attributes.setdefault("agl.first_token_seconds", time.time() - run.started)

    def end(self, run_id: Any, attributes: Mapping[str, Any] | None = None, error: BaseException | None = None) -> None:
        """A run ended; its context is given back what was current before, where this is the same context."""
        run = self._open.pop(run_id, None)  # by the one thread that gets it: the attempt may be closing meanwhile
        if run is None:
            return
        run.attributes.update(attributes or {})
        self._record(run, SpanStatus.ERROR if error is not None else SpanStatus.OK, _one_line(error))
        inner = self._by_span.get(context.current_span() or "")
        while inner is not None and inner is not run:
            inner = inner.outer
        if inner is run:
            context.set_span(self._innermost_open_id(run.outer_span))
            context.set_role(run.outer_role)
            _SET_ROLE.set(run.outer_set_role)

    def close(self) -> None:
        """The attempt ends: runs whose end was never told are recorded as open."""
        self.closed = True
        for run_id in list(self._open):
            run = self._open.pop(run_id, None)
            if run is not None:
                self._record(run, SpanStatus.OPEN, None)

    def _record(self, run: Run, status: SpanStatus, error: str | None) -> None:
        run.open = False
        self.attempt.add_span(
            self.attempt.make_span(
                span_id=run.span_id,
                name=run.name,
                kind=run.kind,
                started_at=run.started,
                parent_id=run.parent_id,
                role=run.place.role,
                status=status,
                error=error,
                attributes=run.attributes,
            )
        )

    def _parent_of(self, outer: Run | None, current: str) -> str:
        """The span of the run around, or a span that user code or another framework opened inside of it."""
        known = current == self.attempt.root_id or current in self._by_span
        if not known:
            return current
        return outer.span_id if outer is not None else self.attempt.root_id

    def _innermost_open(self, span_id: str | None) -> Run | None:
        run = self._by_span.get(span_id or "")
        while run is not None and not run.open:
            run = run.outer
        return run

    def _innermost_open_id(self, span_id: str | None) -> str | None:
        """A span that is still open: an interleaved stream may have ended the one that was current before."""
        if span_id not in self._by_span:
            return span_id
        run = self._innermost_open(span_id)
        return run.span_id if run else self.attempt.root_id


def current_trace() -> Trace | None:
    """The trace of the attempt that this code runs in."""
    trace = _TRACE.get()
    return trace if trace is not None and not trace.closed else None


@contextlib.contextmanager
def traced(attempt: ActiveAttempt) -> Iterator[Trace]:
    """Record the framework's runs in this context as spans of the attempt."""
    trace = Trace(attempt)
    tokens = _TRACE.set(trace), _SET_ROLE.set(context.current_role())
    try:
        yield trace
    finally:
        trace.close()
        _TRACE.reset(tokens[0])
        _SET_ROLE.reset(tokens[1])


def _one_line(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"[:2000]
