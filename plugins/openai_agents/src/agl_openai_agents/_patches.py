"""The patches: the SDK has no public place where every run passes that user code makes, nor one that sees its calls without tracing.

All else is done by what it offers for it: a run configuration with a model and an input filter, and a trace processor.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

from agl.gateway.wire import PLACEHOLDER_KEY
from agl.patching import Patch, Patches
from agl_openai_agents._runs import Run, current_trace


def run(original: Callable[..., Any]) -> Callable[..., Any]:
    """`AgentRunner.run`, which `Runner.run`, `Runner.run_sync` and agents as tools call."""

    async def run(self: Any, starting_agent: Any, input: Any, **kwargs: Any) -> Any:
        started = _started(starting_agent, input, kwargs)
        if started is None:
            return await original(self, starting_agent, input, **kwargs)
        work, options = started
        with work:
            try:
                result = await original(self, starting_agent, input, **options)
            except BaseException as error:
                work.end(error)
                raise
        _ended(work, result)
        return result

    return run


def run_streamed(original: Callable[..., Any]) -> Callable[..., Any]:
    """`AgentRunner.run_streamed`, which works in a task that it makes."""

    def run_streamed(self: Any, starting_agent: Any, input: Any, **kwargs: Any) -> Any:
        started = _started(starting_agent, input, kwargs)
        if started is None:
            return original(self, starting_agent, input, **kwargs)
        work, options = started
        with work:
            try:
                result = original(self, starting_agent, input, **options)
            except BaseException as error:
                work.end(error)
                raise
        work.result = result
        result.run_loop_task.add_done_callback(functools.partial(_streamed, work))
        return result

    return run_streamed


def export(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BackendSpanExporter.export`, which sends traces to OpenAI as soon as there is a key, whatever key it is."""

    def export(self: Any, items: list[Any]) -> None:
        if os.environ.get("OPENAI_API_KEY") == PLACEHOLDER_KEY and not self._api_key:
            items = [item for item in items if item.tracing_api_key]
        if items:
            original(self, items)

    return export


def _started(agent: Any, given: Any, kwargs: dict[str, Any]) -> tuple[Run, dict[str, Any]] | None:
    """The run that starts, and the arguments for it; None outside of an attempt."""
    trace = current_trace()
    if trace is None:
        return None
    # The SDK itself may still be on its way in when this module is imported.
    from agl_openai_agents import _options, _processor

    _processor.register()
    return _options.start(trace, agent, given, kwargs)


def _ended(run: Run, result: Any) -> None:
    run.tell("agl.output", result.final_output)
    run.attributes["agl.openai_agents.last_agent"] = result.last_agent.name
    run.end()


def _streamed(run: Run, task: Any) -> None:
    if task.cancelled():
        run.end(asyncio.CancelledError("the stream was given up"))
    elif (error := run.result.run_loop_exception) is not None:
        run.end(error)
    else:
        _ended(run, run.result)


def _lacking() -> list[str]:
    """What the run configuration lacks: better to fail now than to let a call of an attempt pass by it."""
    config = importlib.import_module("agents.run_config").RunConfig
    fields = getattr(config, "__dataclass_fields__", {})
    return [
        f"`agents.RunConfig` has no `{name}` any more"
        for name in ("model", "model_provider", "call_model_input_filter")
        if name not in fields
    ]


_WHY = "every run of an attempt carries its roles, and its models go to the attempt"
_RUN = ("starting_agent", "input", "kwargs")
PATCHES = Patches(
    "openai_agents",
    [
        Patch("agents.run:AgentRunner.run", _WHY, run, _RUN),
        Patch("agents.run:AgentRunner.run_streamed", _WHY, run_streamed, _RUN),
        Patch(
            "agents.tracing.processors:BackendSpanExporter.export",
            "no trace is sent to OpenAI with the key that AGL puts where there is none",
            export,
            ("items",),
        ),
    ],
    supported="openai-agents>=0.20,<0.25",
    canary=_lacking,
)
