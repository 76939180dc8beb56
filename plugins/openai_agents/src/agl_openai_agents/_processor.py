"""The SDK's own spans as spans of the attempt, by its public trace processors. Whatever else listens to them goes on doing so."""

from __future__ import annotations

import weakref
from typing import Any

from agents.tracing import TracingProcessor, get_trace_provider

from agl import context
from agl.spans import SpanKind
from agl_openai_agents._runs import Trace, Work, current_run, current_trace
from agl_openai_agents._spans import KINDS, attributes_of, error_of, name_of

_SKIPPED = frozenset({"task", "turn"})
"""Spans that say nothing but that a run goes on; not all versions of the SDK have them."""


class Processor(TracingProcessor):
    """Called in the context of the work that a span stands for; outside of an attempt it does nothing."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Trace, Work]] = {}

    def on_span_start(self, span: Any) -> None:
        """Open a span, and name who speaks from here on."""
        trace, data = current_trace(), span.span_data
        if trace is None or data.type in _SKIPPED or span.span_id in self._open:
            return
        run = current_run()
        work = Work(KINDS.get(data.type, SpanKind.OPERATION), name_of(data), context.current_span() or trace.attempt.root_id)
        context.set_span(work.span_id)
        if data.type == "agent" and run is not None:
            run.speaks(data.name)
        work.role = context.current_role()
        trace.start(work)
        self._open[span.span_id] = trace, work

    def on_span_end(self, span: Any) -> None:
        """Record it; it may end in another context than it started in."""
        trace, work = self._open.pop(span.span_id, (None, None))
        if trace is None or work is None:
            return
        run = current_run()
        work.name, work.attributes = name_of(span.span_data), attributes_of(span, run.asked if run is not None else [])
        trace.end(work, error=error_of(span))

    def on_trace_start(self, trace: Any) -> None:
        """Nothing: a trace is what a run is."""

    def on_trace_end(self, trace: Any) -> None:
        """Nothing."""

    def shutdown(self) -> None:
        """Nothing is kept back."""

    def force_flush(self) -> None:
        """Nothing is kept back."""


PROCESSOR = Processor()
_told: weakref.WeakSet[Any] = weakref.WeakSet()


def register() -> None:
    """Listen, also after user code has replaced all processors or the provider. The SDK makes its provider at each run itself."""
    provider = get_trace_provider()
    known = _processors(provider)
    if known is None and provider in _told:  # one of the user's own, which cannot be asked
        return
    if known is None or PROCESSOR not in known:
        provider.register_processor(PROCESSOR)
        _told.add(provider)


def unregister() -> None:
    """Listen no longer, where the provider tells who listens."""
    provider = get_trace_provider()
    known = _processors(provider)
    if known is not None and PROCESSOR in known:
        provider.set_processors([processor for processor in known if processor is not PROCESSOR])
    _told.discard(provider)


def _processors(provider: Any) -> tuple[Any, ...] | None:
    """There is no public way to ask."""
    return getattr(getattr(provider, "_multi_processor", None), "_processors", None)
