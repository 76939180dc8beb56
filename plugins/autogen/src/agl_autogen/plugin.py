"""Hook implementations for AutoGen AgentChat. Importing this module imports no framework.

AutoGen is in maintenance mode, and this plugin with it: `docs/frameworks/autogen.md` tells what one for its successor needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.hookspecs import hookimpl
from agl.resources import PromptTemplate
from agl_autogen import _activation, _adapter, _prompts, _tracing


@hookimpl
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Agents and teams of AgentChat."""
    return _adapter.adapt(agent)


@hookimpl
def agl_list_prompts(agent: Any) -> Mapping[str, PromptTemplate] | None:
    """System prompts, tool descriptions, and the prompts of selectors and societies of mind."""
    return _prompts.list_prompts(agent)


@hookimpl
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any]:
    """Record every team, agent and tool inside the attempt, whoever starts it."""
    _activation.watch()
    return _tracing.traced(attempt)


def uninstall() -> None:
    """Give AutoGen its own methods back; the next attempt patches it again."""
    _activation.uninstall()
