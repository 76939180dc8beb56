"""Which plugin an agent of a known framework needs, by the names of its classes: nothing is imported to say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agl.discovery import PluginRow

RULES = (
    ("agl-langgraph", "langgraph", "Pregel"),
    ("agl-langgraph", "langgraph", "StateGraph"),
    ("agl-langgraph", "langgraph.pregel.remote", "RemoteGraph"),
    ("agl-langgraph", "langchain_core.runnables", "Runnable"),
    ("agl-crewai", "crewai", "Crew"),
    ("agl-crewai", "crewai.flow", "Flow"),
    ("agl-crewai", "crewai.agents.agent_builder.base_agent", "BaseAgent"),
    ("agl-crewai", "crewai", "LiteAgent"),
    ("agl-autogen", "autogen_agentchat", "ChatAgent"),
    ("agl-autogen", "autogen_agentchat", "BaseChatAgent"),
    ("agl-autogen", "autogen_agentchat", "Team"),
    ("agl-autogen", "autogen_agentchat", "BaseGroupChat"),
    ("agl-openai-agents", "agents.agent", "AgentBase"),
)
"""Package, prefix of the module in which a class or a base of it is defined, name of the class."""


def package_for(agent: Any) -> str | None:
    """Package of the plugin for an agent's framework, also for the agent's class; None when the framework is not known."""
    for base in (agent if isinstance(agent, type) else type(agent)).__mro__:
        for package, prefix, name in RULES:
            if base.__name__ == name and f"{base.__module__}.".startswith(f"{prefix}."):
                return package
    return None


def why_unknown(agent: Any, rows: Iterable[PluginRow]) -> str:
    """Why no plugin takes an agent, and what to do.

    Args:
        rows: the plugins that were discovered.
    """
    rows = list(rows)
    kind = agent if isinstance(agent, type) else type(agent)
    what = f"{'the class' if isinstance(agent, type) else 'a'} {kind.__module__}.{kind.__qualname__}"
    package = package_for(agent)
    installed = [row.name for row in rows if row.state == "ok"]
    said = f"no plugin knows how to run {what}; installed are {installed}. "
    if package is None:
        return (
            said + "Install the plugin of its framework (such as `pip install agl-langgraph`) or wrap it in a function with `@agl.rollout`"
        )
    row = next((row for row in rows if row.package == package), None)
    if row is None:
        return said + f"Its plugin is not installed: `pip install {package}`"
    if row.state != "ok":
        return said + f"Its plugin `{row.name}` of {package} is {row.state}: {row.reason}"
    if isinstance(agent, type):
        return said + f"Give an object of the class instead of the class itself to the plugin `{row.name}`"
    return said + f"{package} {row.version} does not take it; wrap it in a function with `@agl.rollout`"
