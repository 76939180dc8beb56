"""What the plugin knows of AutoGen's classes, by name: recognising an object imports nothing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

from agl.agents import is_instance_of
from agl.errors import PluginError

AGENT = "autogen_agentchat.agents:BaseChatAgent"
TEAM = "autogen_agentchat.teams:BaseGroupChat"
SELECTOR = "autogen_agentchat.teams:SelectorGroupChat"
SELECTOR_MANAGER = "autogen_agentchat.teams:SelectorGroupChatManager"
MANAGER = "autogen_agentchat.teams:BaseGroupChatManager"
CONTAINER = "autogen_agentchat.teams:ChatAgentContainer"
SOCIETY = "autogen_agentchat.agents:SocietyOfMindAgent"
FILTER = "autogen_agentchat.agents:MessageFilterAgent"
TASK_TOOL = "autogen_agentchat.tools:TaskRunnerTool"
FUNCTION_TOOL = "autogen_core.tools:FunctionTool"
WORKBENCH = "autogen_core.tools:StaticWorkbench"


def private(owner: Any, name: str) -> Any:
    """A private attribute of the framework.

    Raises:
        PluginError: this version of the framework does not have it.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        version = importlib.metadata.version("autogen-agentchat")
        raise PluginError(
            f"plugin `autogen` does not fit autogen-agentchat {version}: `{type(owner).__name__}` has no `{name}`; "
            "install a version that it knows: `pip install 'autogen-agentchat>=0.7.5,<0.8'`"
        ) from None


def manager_of(team: Any) -> str:
    """The framework's name of what chooses a team's next speaker: the last part of the role of its own model calls."""
    return str(private(team, "_group_chat_manager_name"))


def tools_of(agent: Any) -> Iterator[Any]:
    """Tools of an agent that are known before it runs, and its handoffs; not those that a server offers."""
    for bench in getattr(agent, "_workbench", None) or ():
        if is_instance_of(bench, WORKBENCH):
            yield from private(bench, "_tools")
    yield from getattr(agent, "_handoff_tools", None) or ()


def children_of(member: Any) -> Iterator[Any]:
    """Agents and teams right below an agent or a team, as the roles of their calls have it."""
    if is_instance_of(member, TEAM):
        yield from private(member, "_participants")
    if is_instance_of(member, SOCIETY):
        yield private(member, "_team")
    if is_instance_of(member, FILTER):
        yield private(member, "_wrapped_agent")
    for tool in tools_of(member):
        if is_instance_of(tool, TASK_TOOL):
            yield private(tool, "_task_runner")
