"""The patches. Events and hooks of CrewAI are public, but handlers of events run in other threads: nothing they set is seen by the
code around the event, and so they can make no role and no span current."""

from __future__ import annotations

from agl.patching import Patch, Patches
from agl_crewai import _names, _watched

_TRACING = "crewai.events.listeners.tracing"
_RETRY = "one layer, the SDK, tries again: three around each other make 27 requests of one"
_FIRST_TRACES = "nothing is collected, and nobody is asked for it, when the first run of a user is an attempt"

PATCHES = Patches(
    "crewai",
    [
        Patch(
            "crewai.events.event_bus:CrewAIEventsBus.emit",
            "calls carry their role and span, and what is stopped stops",
            _watched.emitted,
            ("source", "event"),
        ),
        Patch("crewai.llms.base_llm:run_with_rate_limit_retry", _RETRY, _watched.called_once, ("operation",)),
        Patch("crewai.llms.base_llm:arun_with_rate_limit_retry", _RETRY, _watched.acalled_once, ("operation",)),
        Patch("crewai.agent.core:Agent._check_execution_error", _RETRY, _watched.failed, ("e", "task")),
        Patch(
            "crewai.llms.providers.openai.completion:OpenAICompletion.get_input_tokens_count",
            "prompts of an attempt are not sent to OpenAI to be counted",
            _watched.counted,
            ("messages", "tools"),
        ),
        Patch(
            "crewai.telemetry.telemetry:Telemetry._should_execute_telemetry",
            "no telemetry is sent of an attempt unless the user has switched it on",
            _watched.telemetry_sent,
        ),
        *(
            Patch(f"{_TRACING}.{module}:should_auto_collect_first_time_traces", _FIRST_TRACES, _watched.collected)
            for module in ("utils", "trace_listener", "trace_batch_manager", "first_time_trace_handler")
        ),
    ],
    supported=_names.SUPPORTED,
)
