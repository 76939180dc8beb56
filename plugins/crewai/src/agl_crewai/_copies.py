"""Copies of crews and agents: one for each attempt, made of one that has never run.

The framework writes inputs and state into the objects that it runs, and refuses to run one of them twice at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agl.agents import is_instance_of
from agl.context import ActiveAttempt
from agl_crewai import _names
from agl_crewai._prompts import agent_texts, crew_texts, put_in
from agl_crewai._tracing import log

_AGENT_TEXTS = ("role", "goal", "backstory")
_TASK_TEXTS = ("description", "expected_output", "output_file")


def pristine_crew(crew: Any) -> Any:
    """A copy of a crew as it was before it ever ran: its placeholders are not filled in."""
    if getattr(crew, "memory", None):
        log.warning("the crew `%s` has a memory, which its attempts share; train without it: `Crew(memory=False)`", crew.name)
    return _copied(crew)


def pristine_agent(agent: Any) -> Any:
    """A copy of an agent as it was before it ever ran."""
    return _copied_agent(agent)


def copy_crew(crew: Any, attempt: ActiveAttempt | None) -> Any:
    """A crew for one attempt, with the attempt's prompts."""
    copied = _copied(crew)
    if attempt is not None:
        put_in(crew_texts(copied), attempt)
    return copied


def copy_agent(agent: Any, attempt: ActiveAttempt | None) -> Any:
    """An agent for one attempt, with the attempt's prompts."""
    copied = _copied_agent(agent)
    if attempt is not None:
        put_in(agent_texts(copied), attempt)
    return copied


def _copied(crew: Any) -> Any:
    copied = crew.copy()
    for original, agent in zip(_members(crew), _members(copied), strict=True):
        _unfilled(original, agent, _AGENT_TEXTS)
    copies = {id(original): agent for original, agent in zip(_members(crew), _members(copied), strict=True)}
    for original, task in zip(crew.tasks, copied.tasks, strict=True):
        _unfilled(original, task, _TASK_TEXTS)
        if original.agent is not None:  # the framework looks for an agent of the same role: not the same where two have it
            task.agent = copies.get(id(original.agent)) or _copied_agent(original.agent)
    _limited_anew([*(_tools_of(task) for task in copied.tasks), *(_tools_of(agent) for agent in _members(copied))])
    return copied


def _copied_agent(agent: Any) -> Any:
    if is_instance_of(agent, _names.LITE_AGENT):
        given = {name: getattr(agent, name) for name in agent.model_fields_set - {"id"}}
        copied = type(agent)(**given)
    else:
        copied = agent.copy()
        _unfilled(agent, copied, _AGENT_TEXTS)
    _limited_anew([_tools_of(copied)])
    return copied


def _members(crew: Any) -> list[Any]:
    return [*crew.agents, *([crew.manager_agent] if crew.manager_agent is not None else [])]


def _tools_of(owner: Any) -> list[Any]:
    return owner.tools if isinstance(owner.tools, list) else []


def _unfilled(original: Any, copied: Any, names: Iterable[str]) -> None:
    """Give a copy the texts with their placeholders: the framework copies those of the last run."""
    for name in names:
        template = getattr(original, f"_original_{name}", None)
        if template is not None and getattr(copied, name) != template:
            setattr(copied, name, template)


def _limited_anew(lists: Iterable[list[Any]]) -> None:
    """Give each copy its own count of uses of a tool that may not be used for ever; other tools stay the user's objects."""
    made: dict[int, Any] = {}
    anew: Callable[[Any], Any] = lambda tool: tool.model_copy(update={"current_usage_count": 0})  # noqa: E731
    for tools in lists:
        for index, tool in enumerate(tools):
            if _names.is_tool(tool) and tool.max_usage_count is not None:
                tools[index] = made.setdefault(id(tool), anew(tool))
