"""The prompts of an agent, and of every agent that it can hand over to or use as a tool, by name.

They are put into the requests of their role by the core: the user's objects stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agl.agents import is_instance_of
from agl.resources import PromptTemplate
from agl_openai_agents._adapter import AGENT

HANDOFF = "agents.handoffs:Handoff"
FUNCTION_TOOL = "agents.tool:FunctionTool"


def list_prompts(agent: Any) -> dict[str, PromptTemplate] | None:
    """Prompts by name; None for anything but an agent. Instructions that a function words for each run are left out."""
    if not is_instance_of(agent, AGENT):
        return None
    found: dict[str, set[str]] = {}
    for name, text in _of_run(agent, "", ()):
        found.setdefault(name, set()).add(text)
    return {name: PromptTemplate(template=texts.pop()) for name, texts in found.items() if len(texts) == 1}


def _of_run(first: Any, around: str, outer: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Of every agent that may speak in one run.

    Args:
        first: the agent that it starts with.
        around: the role of who makes the run.
        outer: ids of the agents whose tools lead here, which may lead here again.
    """
    waiting, seen = [first], set[int]()
    while waiting:
        agent = waiting.pop()
        if id(agent) in seen or id(agent) in outer:
            continue
        seen.add(id(agent))
        role = f"{around}/{agent.name}" if around else agent.name
        if isinstance(agent.instructions, str):
            yield f"{role}.instructions", agent.instructions
        for tool in agent.tools:
            if is_instance_of(tool, FUNCTION_TOOL):
                yield f"{role}.tools.{tool.name}.description", tool.description
            inner = getattr(tool, "_agent_instance", None)  # of `as_tool`; there is no public way to ask a tool for its agent
            if inner is not None:
                yield from _of_run(inner, role, (*outer, id(agent)))
        for handoff in map(_handoff, agent.handoffs):
            yield f"{role}.tools.{handoff.tool_name}.description", handoff.tool_description
            waiting.extend(_target(handoff))


def _handoff(given: Any) -> Any:
    if is_instance_of(given, HANDOFF):
        return given
    from agents import handoff

    return handoff(given)


def _target(handoff: Any) -> list[Any]:
    """The agent that a handoff leads to; none where only its function knows."""
    held = getattr(handoff, "_agent_ref", None)  # there is no public way to ask
    agent = held() if held is not None else None
    return [] if agent is None else [agent]
