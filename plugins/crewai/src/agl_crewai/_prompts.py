"""The prompts of crews and agents by name, and others put into an attempt's own copy before it runs.

They are templates: the framework fills in the inputs of the run, also into those that are put in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from agl.agents import is_instance_of
from agl.context import ActiveAttempt
from agl.resources import PromptTemplate
from agl_crewai import _names


class Text(NamedTuple):
    """One place of an agent, a task or a tool that holds a prompt."""

    name: str
    text: str
    put: Callable[[str], None]


def list_prompts(agent: Any) -> dict[str, PromptTemplate] | None:
    """Every prompt of a crew or an agent by name; None for anything else, flows among it: they make their agents when they run."""
    if is_instance_of(agent, _names.CREW):
        texts = crew_texts(agent)
    elif is_instance_of(agent, _names.BASE_AGENT, _names.LITE_AGENT):
        texts = agent_texts(agent)
    else:
        return None
    return {name: PromptTemplate(template=places[0].text) for name, places in _by_name(texts).items()}


def put_in(texts: Iterable[Text], attempt: ActiveAttempt) -> None:
    """Exchange the texts for which the attempt has a template."""
    for name, places in _by_name(texts).items():
        template = attempt.claim_prompt(name)
        if template is not None:
            for place in places:
                place.put(template.template)


def crew_texts(crew: Any) -> Iterator[Text]:
    """The texts of a crew's agents, its manager and its tasks."""
    for agent in crew.agents:
        lists = [agent.tools, *(task.tools for task in crew.tasks if task.agent is agent)]
        yield from _agent_texts(agent, _names.role_of(crew, agent), lists)
    if _names.is_hierarchical(crew):
        yield from _manager_texts(crew)
    for number, task in enumerate(crew.tasks, 1):
        name = f"{_names.crew_name(crew)}.tasks.{_names.part(task.name or number)}"
        for word in ("description", "expected_output"):
            yield _attribute(task, word, f"{name}.{word}")


def agent_texts(agent: Any) -> Iterator[Text]:
    """The texts of an agent that works alone."""
    yield from _agent_texts(agent, _names.agent_name(agent), [agent.tools])


def _manager_texts(crew: Any) -> Iterator[Text]:
    role = _names.role_of(crew, None)
    tools = [task.tools for task in crew.tasks if task.agent is None]
    if crew.manager_agent is not None:
        yield from _agent_texts(crew.manager_agent, role, tools)
        return
    texts = _names.manager_texts(crew)
    for word in ("goal", "backstory"):
        yield Text(f"{role}.{word}", texts[word], _put_into_made_manager(crew, word))
    yield from _tool_texts(role, tools)


def _put_into_made_manager(crew: Any, word: str) -> Callable[[str], None]:
    def put(text: str) -> None:
        if crew.manager_agent is None:
            _names.private(crew, "_create_manager_agent")()
        setattr(crew.manager_agent, word, text)

    return put


def _agent_texts(agent: Any, role: str, lists: list[Any]) -> Iterator[Text]:
    for word in ("goal", "backstory"):
        if getattr(agent, word):
            yield _attribute(agent, word, f"{role}.{word}")
    yield from _tool_texts(role, lists)


def _attribute(owner: Any, word: str, name: str) -> Text:
    text = getattr(owner, f"_original_{word}", None) or getattr(owner, word)
    return Text(name, text, lambda changed: setattr(owner, word, changed))


def _tool_texts(role: str, lists: list[Any]) -> Iterator[Text]:
    """Of each tool once: a task has its agent's tools, too."""
    seen: set[int] = set()
    for tool in (tool for tools in lists for tool in tools or ()):
        if _names.is_tool(tool) and id(tool) not in seen:
            seen.add(id(tool))
            yield Text(f"{role}.tools.{_names.tool_name(tool)}.description", tool.description, _put_tool(lists, tool))


def _put_tool(lists: list[Any], tool: Any) -> Callable[[str], None]:
    """Put a copy of the tool in its places: the tool itself belongs to the user."""

    def put(text: str) -> None:
        changed = tool.model_copy(update={"description": text})
        for tools in lists:
            if tools:
                tools[:] = [changed if item is tool else item for item in tools]

    return put


def _by_name(texts: Iterable[Text]) -> dict[str, list[Text]]:
    """Places by name; those that share a name and differ are left out: one text cannot take the place of two."""
    found: dict[str, list[Text]] = {}
    for text in texts:
        found.setdefault(text.name, []).append(text)
    return {name: places for name, places in found.items() if len({place.text for place in places}) == 1}
