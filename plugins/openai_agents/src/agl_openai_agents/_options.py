"""The arguments of a run inside an attempt: the user's own, with the attempt's model and a filter that sees who speaks."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from typing import Any

from agents import RunConfig

from agl.errors import ConfigError
from agl_openai_agents._models import AttemptModel
from agl_openai_agents._runs import Run, Trace

_sessions: dict[int, tuple[weakref.ref[Any], str]] = {}
"""The attempt that a session belongs to, by the session's id."""


def start(trace: Trace, agent: Any, given: Any, kwargs: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Start a run in an attempt.

    Args:
        trace: of the attempt.
        agent: that it starts with.
        given: its input.
        kwargs: its other arguments; they belong to the user and are not changed.

    Raises:
        ConfigError: its session belongs to another attempt.
    """
    _own(trace, kwargs.get("session"))
    users = _config(kwargs.get("run_config"))
    run = Run(trace, agent, users.workflow_name, tells=users.trace_include_sensitive_data)
    run.tell("agl.input", given)
    trace.start(run)
    changes: dict[str, Any] = {"call_model_input_filter": _Filter(run, users.call_model_input_filter)}
    if trace.attempt.llm is not None:
        changes["model"] = AttemptModel(run, users, chained=bool(kwargs.get("auto_previous_response_id")))
    return run, {**kwargs, "run_config": dataclasses.replace(users, **changes)}


def _config(given: Any) -> RunConfig:
    """The user's own configuration; an agent used as a tool is given that of the run around it."""
    config = RunConfig(**given) if isinstance(given, dict) else given or RunConfig()
    if not isinstance(config.call_model_input_filter, _Filter):
        return config
    users, model = config.call_model_input_filter.users, config.model
    return dataclasses.replace(config, call_model_input_filter=users, model=model.users.model if isinstance(model, AttemptModel) else model)


class _Filter:
    """Sees who is about to call the model, in the context that the call is made in; the user's own filter comes after it."""

    def __init__(self, run: Run, users: Any) -> None:
        self._run, self.users = run, users

    async def __call__(self, data: Any) -> Any:
        self._run.speaks(data.agent.name, data.agent)
        if self.users is None:
            return data.model_data
        updated = self.users(data)
        return await updated if inspect.isawaitable(updated) else updated


def _own(trace: Trace, session: Any) -> None:
    """A session is one conversation: two attempts with the same would read what the other said."""
    if session is None:
        return
    attempt_id = trace.attempt.attempt_id
    known = _sessions.get(id(session))
    if known is not None and known[0]() is session and known[1] != attempt_id:
        trace.unserved = (
            f"the session `{getattr(session, 'session_id', session)}` was used by another rollout, which would mix their conversations; "
            "make a new one in each: `SQLiteSession(…)` inside the function, or inside `input=lambda task: {'input': …, 'session': …}`"
        )
        raise ConfigError(trace.unserved)
    try:
        _sessions[id(session)] = weakref.ref(session, lambda _, key=id(session): _sessions.pop(key, None)), attempt_id
    except TypeError:  # it takes no weak references
        return
