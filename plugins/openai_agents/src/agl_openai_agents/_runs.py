"""The runs of one attempt: who speaks in each, and which spans they open. Imports no framework.

A run is one call of `Runner.run`; an agent as a tool is a run inside a run. A span is one that the SDK opens inside of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import Any

from agl import context
from agl.context import ActiveAttempt
from agl.spans import SpanKind, SpanStatus, new_span_id
from agl.values import jsonable

_TRACE: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("agl_openai_agents_trace", default=None)
_RUN: contextvars.ContextVar[Run | None] = contextvars.ContextVar("agl_openai_agents_run", default=None)


class Work:
    """One piece of work, open or ended: a run, or a span that the SDK opens in it."""

    def __init__(self, kind: SpanKind, name: str, parent_id: str) -> None:
        self.kind, self.name, self.parent_id = kind, name, parent_id
        self.attributes: dict[str, Any] = {}
        self.span_id, self.started = new_span_id(), time.time()
        self.role: str | None = None


class Run(Work):
    """One run of the SDK. `with run:` makes it current."""

    def __init__(self, trace: Trace, agent: Any, name: str, *, tells: bool = True) -> None:
        super().__init__(SpanKind.OPERATION, name, context.current_span() or trace.attempt.root_id)
        self.trace, self.outer, self._tells = trace, current_run(), tells
        around = context.current_role()
        # Tasks of the outer run may hold the role of who spoke when they were made; a role that user code has set wins.
        self._around = self.outer.speaker_role if self.outer is not None and around in self.outer.roles else around
        self.agent = agent
        self.roles: set[str | None] = set()
        """Every role that the calls of this run have had."""
        self.role = self._role_of(agent.name)
        self.asked: list[Any] = []
        """Tool calls in the model's last answer that have no span yet."""
        self.endpoint_error: str | None = None
        """What went wrong at the endpoint in the last call of this run; None when it was answered."""
        self.result: Any = None
        """Of a streamed run, which goes on in a task of its own."""
        self._task: asyncio.Task[Any] | None = None
        self._tokens: list[contextvars.Token[Any]] = []

    def _role_of(self, name: str) -> str:
        self.speaker_role = f"{self._around}/{name}" if self._around else name
        self.roles.add(self.speaker_role)
        return self.speaker_role

    def speaks(self, name: str, agent: Any = None) -> None:
        """This agent speaks from here on, in this context and in the tasks made in it."""
        self.agent = agent or self.agent
        context.set_role(self._role_of(name))

    def __enter__(self) -> Run:
        self._task = _current_task()
        self._tokens = [_RUN.set(self), context.set_span(self.span_id)]
        self._tokens.append(context.set_role(self.role))  # holds as long as the span that is current
        return self

    def __exit__(self, *raised: Any) -> None:
        self._task = None
        for token in reversed(self._tokens):
            token.var.reset(token)

    def tell(self, name: str, value: Any) -> None:
        """An attribute that says what was said, where the run's configuration lets spans say so."""
        if self._tells:
            self.attributes[name] = jsonable(value)

    def end(self, error: BaseException | None = None) -> None:
        """The run ended; a second call does nothing."""
        self.trace.end(self, error=None if error is None else f"{type(error).__name__}: {error}")

    def cancel(self) -> None:
        """End the tasks that this run works in."""
        task, result = self._task, self.result
        working = task if task is not None else getattr(result, "run_loop_task", None)
        # One that is on its way to an end closes its connections; to be cancelled again would keep it from that.
        if working is None or working.done() or working.cancelling() or working is _current_task():
            return
        stop = working.cancel if result is None else result.cancel
        loop = working.get_loop()
        if loop is _current_loop():
            stop()
        else:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(stop)


class Trace:
    """Everything recorded of one attempt; used by many tasks, and by threads with loops of their own."""

    def __init__(self, attempt: ActiveAttempt) -> None:
        self.attempt = attempt
        self.closed = False
        self.unserved: str | None = None
        """Why a call could not be made: what the agent went on with says nothing of the agent."""
        self._open: dict[str, Work] = {}

    def start(self, work: Work) -> None:
        """A piece of work starts."""
        self._open[work.span_id] = work

    def end(self, work: Work, status: SpanStatus | None = None, error: str | None = None) -> None:
        """Record a piece of work, once."""
        if self._open.pop(work.span_id, None) is None:
            return
        calls = self.attempt.call_spans
        if work.span_id in calls and work.kind != SpanKind.TOOL:
            # Rewards that the code around emits next belong to the call made last in here.
            calls[work.parent_id] = calls[work.span_id]
            if isinstance(work, Run):
                context.set_call(work.span_id)
        if isinstance(work, Run) and work.outer is not None and work.endpoint_error:
            # The SDK tells the model of an agent used as a tool that it failed, and goes on.
            self.unserved = self.unserved or work.endpoint_error
        self.attempt.add_span(
            self.attempt.make_span(
                span_id=work.span_id,
                name=work.name,
                kind=work.kind,
                started_at=work.started,
                parent_id=work.parent_id,
                role=work.role,
                status=status or (SpanStatus.ERROR if error else SpanStatus.OK),
                error=error[:2000] if error else None,
                attributes={name: value for name, value in work.attributes.items() if value is not None},
            )
        )

    def close(self) -> None:
        """The attempt ends: what still runs is cancelled, and recorded as open."""
        self.closed = True
        for work in list(self._open.values()):
            if isinstance(work, Run):
                work.cancel()
            self.end(work, SpanStatus.OPEN)
        if self.unserved is not None:
            self.attempt.infrastructure_error = self.unserved


def current_trace() -> Trace | None:
    """The trace of the attempt that this code runs in."""
    trace = _TRACE.get()
    return trace if trace is not None and not trace.closed else None


def current_run() -> Run | None:
    """The innermost run that this code runs in."""
    return _RUN.get()


@contextlib.contextmanager
def traced(attempt: ActiveAttempt) -> Iterator[Trace]:
    """Record the SDK's runs in this context as spans of the attempt."""
    trace = Trace(attempt)
    tokens = _TRACE.set(trace), _RUN.set(None)
    try:
        yield trace
    finally:
        trace.close()
        _TRACE.reset(tokens[0])
        _RUN.reset(tokens[1])


def _current_task() -> asyncio.Task[Any] | None:
    return asyncio.current_task() if _current_loop() is not None else None


def _current_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
