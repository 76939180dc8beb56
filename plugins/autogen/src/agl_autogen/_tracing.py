"""The runs of one attempt (teams, agents, tools) as spans: who is inside whom, and who calls the model. Imports no framework."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agl import context
from agl.context import ActiveAttempt
from agl.spans import SpanKind, SpanStatus, new_span_id

_TRACE: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("agl_autogen_trace", default=None)
_RUN: contextvars.ContextVar[Run | None] = contextvars.ContextVar("agl_autogen_run", default=None)


class Run:
    """One run of a team, an agent, a manager or a tool. `with run:` makes it current, again and again for a stream."""

    def __init__(self, trace: Trace, kind: SpanKind, name: str, role: str | None, subject: Any, attributes: dict[str, Any]) -> None:
        self.trace, self.kind, self.name, self.role, self.subject, self.attributes = trace, kind, name, role, subject, attributes
        self.outer = current_run()
        self.parent_id = context.current_span() or trace.attempt.root_id
        self.span_id, self.started, self.open = new_span_id(), time.time(), True
        self.seen: set[str] = set()
        """Ids of the tool calls and handoffs that have a span already."""
        self.asked_at = self.started
        """When the agent asked for tools last."""
        self.asked: dict[str, Any] = {}
        """Arguments of the tool calls that it asked for, by id."""
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False
        self._tokens: list[contextvars.Token[Any]] = []
        self._kept: list[tuple[contextvars.ContextVar[Any], Any]] = []

    def __enter__(self) -> Run:
        """Span and role of this run are current from here on: as at its start, or as its last step left them."""
        self._task = _current_task()
        if self._kept:
            self._tokens = [variable.set(value) for variable, value in self._kept]
        else:
            # The role holds as long as the span that is current when it is set.
            self._tokens = [_RUN.set(self), context.set_span(self.span_id), context.set_role(self.role)]
        return self

    def __exit__(self, *raised: Any) -> None:
        self._task = None
        self._kept = [(token.var, token.var.get()) for token in self._tokens]
        for token in reversed(self._tokens):
            token.var.reset(token)

    def is_below(self, other: Run) -> bool:
        """Whether this run is inside of another."""
        run = self.outer
        while run is not None and run is not other:
            run = run.outer
        return run is other

    def cancel(self) -> None:
        """End the task that this run works in, once."""
        task = self._task
        if task is None or self._stopped or task is _current_task():
            return
        self._stopped = True
        loop = task.get_loop()
        if loop is _current_loop():
            task.cancel()
        else:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(task.cancel)

    def end(self, error: BaseException | None = None, **attributes: Any) -> None:
        """The run ended; a second call does nothing."""
        self.attributes.update({name: value for name, value in attributes.items() if value is not None})
        self.trace.end(self, SpanStatus.OK if error is None else SpanStatus.ERROR, one_line(error))


class Trace:
    """Everything recorded of one attempt; used by many tasks, and by threads with loops of their own."""

    def __init__(self, attempt: ActiveAttempt) -> None:
        self.attempt = attempt
        self.closed = False
        self._open: dict[str, Run] = {}

    def start(self, kind: SpanKind, name: str, attributes: Mapping[str, Any], *, named: bool = True, subject: Any = None) -> Run:
        """A run starts below the one that is current here; `named` ones add their name to the role."""
        around = context.current_role()
        role = "/".join(part for part in (around, name) if part) if named else around
        run = Run(self, kind, name, role, subject, {key: value for key, value in attributes.items() if value is not None})
        self._open[run.span_id] = run
        return run

    def end(self, run: Run, status: SpanStatus, error: str | None) -> None:
        """Record a run, once."""
        if self._open.pop(run.span_id, None) is None:
            return
        run.open = False
        calls = self.attempt.call_spans
        if run.span_id in calls:  # rewards that the code around emits next belong to the call made last in here
            calls[run.parent_id] = calls[run.span_id]
            context.set_call(run.span_id)
        self.add(
            run, run.kind, run.name, run.started, run.attributes, span_id=run.span_id, parent_id=run.parent_id, status=status, error=error
        )

    def add(
        self,
        run: Run,
        kind: SpanKind,
        name: str,
        started: float,
        attributes: dict[str, Any],
        *,
        span_id: str | None = None,
        parent_id: str | None = None,
        status: SpanStatus = SpanStatus.OK,
        error: str | None = None,
    ) -> None:
        """A span that ends now, below the run where no other parent is given."""
        self.attempt.add_span(
            self.attempt.make_span(
                span_id=span_id or new_span_id(),
                name=name,
                kind=kind,
                started_at=started,
                parent_id=parent_id or run.span_id,
                role=run.role,
                status=status,
                error=error,
                attributes=attributes,
            )
        )

    def cancel(self, below: Run | None = None) -> None:
        """End the tasks of all open runs, or of those below one."""
        for run in list(self._open.values()):
            if below is None or run.is_below(below):
                run.cancel()

    def close(self) -> None:
        """The attempt ends: what still runs is cancelled, and recorded as open."""
        self.closed = True
        self.cancel()
        for run in list(self._open.values()):
            self.end(run, SpanStatus.OPEN, None)


def current_trace() -> Trace | None:
    """The trace of the attempt that this code runs in."""
    trace = _TRACE.get()
    return trace if trace is not None and not trace.closed else None


def current_run() -> Run | None:
    """The innermost run that has not ended."""
    run = _RUN.get()
    while run is not None and not run.open:
        run = run.outer
    return run


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


@contextlib.contextmanager
def joined(run: Run) -> Iterator[None]:
    """Take code that a task from outside of the attempt runs into the attempt of a run."""
    token = _TRACE.set(run.trace)
    try:
        with context.entered(run.trace.attempt):
            tokens = [_RUN.set(run), context.set_span(run.span_id), context.set_role(run.role)]
            try:
                yield
            finally:
                for each in reversed(tokens):
                    each.var.reset(each)
    finally:
        _TRACE.reset(token)


def one_line(error: BaseException | None) -> str | None:
    """Kind and text of an error; a team's error holds a whole traceback, of which the first line says what happened."""
    if error is None:
        return None
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:2000] if first else type(error).__name__


def _current_task() -> asyncio.Task[Any] | None:
    return asyncio.current_task() if _current_loop() is not None else None


def _current_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
