"""What the plugin knows of CrewAI's classes, by name, and the names that its objects have in roles and prompts."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from agl.agents import is_instance_of
from agl.errors import PluginError

CREW = "crewai.crew:Crew"
FLOW = "crewai.flow:Flow"
BASE_AGENT = "crewai.agents:BaseAgent"
LITE_AGENT = "crewai.lite_agent:LiteAgent"
BASE_TOOL = "crewai.tools:BaseTool"
SUPPORTED = "crewai>=1.15.30,<1.16"


def is_flow_class(value: Any) -> bool:
    """Whether a value is a flow's class, not an object of it."""
    return isinstance(value, type) and any(base.__name__ == "Flow" and base.__module__.startswith("crewai.flow") for base in value.__mro__)


def part(name: Any) -> str:
    """A name as one part of a role's path: on one line, without the path's own separator."""
    return " ".join(str(name).split()).replace("/", "-")


def agent_name(agent: Any) -> str:
    """An agent's role as it was written, with its placeholders: the same in every run."""
    return part(getattr(agent, "_original_role", None) or agent.role)


def crew_name(crew: Any) -> str:
    """A crew's own name, `crew` where it has none."""
    return part(crew.name or "crew")


def tool_name(tool: Any) -> str:
    """The name under which the model sees a tool."""
    from crewai.utilities.string_utils import sanitize_tool_name

    return str(sanitize_tool_name(tool.name))


def is_hierarchical(crew: Any) -> bool:
    """Whether a manager hands the tasks out."""
    return str(getattr(crew.process, "value", crew.process)) == "hierarchical"


def manager_texts(crew: Any) -> dict[str, str]:
    """Role, goal and backstory of the manager that CrewAI makes for a crew without one of its own."""
    from crewai.utilities.i18n import get_i18n

    texts = get_i18n(prompt_file=crew.prompt_file)
    return {word: str(texts.retrieve("hierarchical_manager_agent", word)) for word in ("role", "goal", "backstory")}


def manager_name(crew: Any) -> str:
    """The manager's role as it is written."""
    return agent_name(crew.manager_agent) if crew.manager_agent is not None else part(manager_texts(crew)["role"])


def role_of(crew: Any, agent: Any) -> str:
    """The role of an agent's calls in a crew: under a manager all work is handed on by it."""
    if agent is None or agent is crew.manager_agent:
        return f"{crew_name(crew)}/{manager_name(crew)}"
    above = [manager_name(crew)] if is_hierarchical(crew) else []
    return "/".join([crew_name(crew), *above, agent_name(agent)])


def private(owner: Any, name: str) -> Any:
    """A private attribute of the framework.

    Raises:
        PluginError: this version of the framework does not have it.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        version = importlib.metadata.version("crewai")
        raise PluginError(
            f"plugin `crewai` does not fit crewai {version}: `{type(owner).__name__}` has no `{name}`; "
            f"install a version that it knows: `pip install '{SUPPORTED}'`"
        ) from None


def is_the_frameworks_own(value: Any) -> bool:
    """Whether an object's class is CrewAI's: its agents' loops and its memory are flows of its own."""
    return type(value).__module__.partition(".")[0] == "crewai"


def is_tool(value: Any) -> bool:
    """Whether a value is a tool that can be copied."""
    return is_instance_of(value, BASE_TOOL)
