"""What stands in place of CrewAI's own functions: inside an attempt they act for AGL, outside they are as before."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from agl import context
from agl_crewai import _events
from agl_crewai._tracing import current_trace, is_over, log


def emitted(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CrewAIEventsBus.emit`."""

    def emit(self: Any, source: Any, event: Any) -> Any:
        if _events.starts_work(event) and is_over():
            from crewai.hooks import HookAborted

            raise HookAborted("the attempt that this belongs to has ended", source="agl")
        result = original(self, source, event)
        trace = current_trace()
        if trace is not None:
            try:
                _events.seen(trace, source, event)
            except Exception:  # a span is worth less than the agent's work
                log.warning("the event `%s` could not be recorded", event.type, exc_info=True)
        return result

    return emit


def called_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """`run_with_rate_limit_retry`."""

    def run_with_rate_limit_retry(operation: Callable[[], Any], **options: Any) -> Any:
        return original(operation, **options) if current_trace() is None else operation()

    return run_with_rate_limit_retry


def acalled_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """`arun_with_rate_limit_retry`."""

    async def arun_with_rate_limit_retry(operation: Callable[[], Any], **options: Any) -> Any:
        return await (original(operation, **options) if current_trace() is None else operation())

    return arun_with_rate_limit_retry


def failed(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Agent._check_execution_error`."""

    def _check_execution_error(self: Any, e: Exception, task: Any) -> Any:
        if current_trace() is None or not _is_the_models(e):
            return original(self, e, task)
        tried, self._times_executed = self._times_executed, self.max_retry_limit
        try:
            return original(self, e, task)
        finally:
            self._times_executed = tried

    return _check_execution_error


def _is_the_models(error: BaseException | None) -> bool:
    """Whether a call of the SDK failed, which has tried again itself; a lost connection is one of Python's own, caused by it."""
    while error is not None:
        if any(base.__module__.partition(".")[0] == "openai" for base in type(error).__mro__):
            return True
        error = error.__cause__
    return False


def counted(original: Callable[..., Any]) -> Callable[..., Any]:
    """`OpenAICompletion.get_input_tokens_count`."""

    def get_input_tokens_count(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = context.current()
        if attempt is None or attempt.llm_for(context.current_role()) is None:
            return original(self, *args, **kwargs)
        from crewai.llms.base_llm import BaseLLM

        return BaseLLM.get_input_tokens_count(self, *args, **kwargs)

    return get_input_tokens_count


def telemetry_sent(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Telemetry._should_execute_telemetry`."""

    def _should_execute_telemetry(self: Any) -> Any:
        return original(self) if current_trace() is None or _is_wanted() else False

    return _should_execute_telemetry


def _is_wanted() -> bool:
    """Whether the user has said that telemetry shall be on."""
    return os.environ.get("CREWAI_DISABLE_TELEMETRY", "").lower() in ("false", "0")


def collected(original: Callable[..., Any]) -> Callable[..., Any]:
    """`should_auto_collect_first_time_traces`."""

    def should_auto_collect_first_time_traces() -> Any:
        return original() if current_trace() is None else False

    return should_auto_collect_first_time_traces
