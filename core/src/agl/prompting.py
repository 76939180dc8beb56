"""Prompts by name: which ones an agent has, and how others are put into one request.

A name is `<role>.system_prompt` (`<role>.instructions` for the Responses API), `<role>.tools.<tool>.description`, or what a
framework plugin lists beside these. The role is that of the call. What is put into a request is the text as it is:
requests hold rendered prompts, so a template's placeholders stay unfilled there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from agl.errors import ConfigError
from agl.resources import PromptTemplate, Resource
from agl.results import Evaluation, RolloutResult
from agl.roles import Roles
from agl.spans import LLMCall, Span
from agl.transitions import call_of

USED_PROMPTS = "agl.prompts"
"""Attribute of an attempt's root span: names of the prompt templates that were put into the agent."""
_SYSTEM_ROLES = ("system", "developer")


def prompts(agent: Any) -> dict[str, PromptTemplate]:
    """The prompts of an agent that can be optimised, by the names under which resources replace them.

    Args:
        agent: what a Trainer takes; or results of rollouts (`Trainer.dev`, `Trainer.evaluate`), whose recorded calls tell the
            prompts of an agent that cannot be asked for them. A text that differs between calls is rendered anew for each
            and cannot be replaced as a whole; it is left out.

    Raises:
        ConfigError: nobody knows the prompts before the agent has run.
    """
    from agl.agents import AgentSpec
    from agl.plugins import active

    results = _results(agent)
    if results is not None:
        return prompts_of(span for result in results for span in result.spans)
    held = cast(Any, agent).agent if isinstance(agent, AgentSpec) else agent
    listed = active().prompts(held)
    if listed is None:
        raise ConfigError(
            f"the prompts of a {type(held).__module__}.{type(held).__qualname__} are not known before it runs; "
            "try it on a task and ask the result: `agl.prompts(trainer.dev(agent, tasks))`"
        )
    return listed


def prompts_of(spans: Iterable[Span]) -> dict[str, PromptTemplate]:
    """The prompts in recorded calls, as the agent itself sent them; texts that differ between calls are left out."""
    found: dict[str, set[str]] = {}
    for span in spans:
        call = call_of(span) if span.role else None
        if call is not None:
            for name, text in _texts_of(call, str(span.role)):
                found.setdefault(name, set()).add(text)
    return {name: PromptTemplate(template=texts.pop()) for name, texts in found.items() if len(texts) == 1}


def _texts_of(call: LLMCall, role: str) -> Iterator[tuple[str, str]]:
    own = call.overridden
    for place in _places(call.request, role):
        text = next((own[name] for name in place.names if name in own), place.text)
        if isinstance(text, str):
            yield place.names[0], text


class _Place:
    """Where a text stands in a request, and the names that it has."""

    def __init__(self, names: tuple[str, ...], text: Any, put: Callable[[dict[str, Any], str], None]) -> None:
        self.names, self.text, self.put = names, text, put


def put_in(body: Mapping[str, Any], role: str, given: Mapping[str, PromptTemplate]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request with the prompts of its role replaced; nothing of `body` is changed, nothing is added where there is no prompt.

    Args:
        body: of chat completions or Responses.
        role: of the call.
        given: prompt templates by name; those of other roles are not looked at.

    Returns:
        The request, and the agent's own texts by the names that replaced them.
    """
    changed, overridden = dict(body), dict[str, Any]()
    for place in _places(body, role):
        name = next((name for name in place.names if name in given), None)
        if name is not None:
            place.put(changed, given[name].template)
            overridden[name] = place.text
    return changed, overridden


def _places(body: Mapping[str, Any], role: str) -> Iterator[_Place]:
    prefix = f"{role}."
    if isinstance(body.get("instructions"), str):
        names = (f"{prefix}instructions", f"{prefix}system_prompt")
        yield _Place(names, body["instructions"], lambda changed, text: changed.update(instructions=text))
    else:
        yield from _message(body, prefix)
    for index, tool in enumerate(_list(body.get("tools"))):
        inner: Any = tool.get("function")
        function = cast("dict[str, Any]", inner) if isinstance(inner, dict) else tool
        if isinstance(function.get("name"), str) and isinstance(function.get("description"), str):
            put = _put_tool(index, "function" if function is not tool else None)
            yield _Place((f"{prefix}tools.{function['name']}.description",), function["description"], put)


def _message(body: Mapping[str, Any], prefix: str) -> Iterator[_Place]:
    field = "messages" if "messages" in body else "input"
    for index, message in enumerate(_list(body.get(field))):
        if message.get("role") in _SYSTEM_ROLES:
            names = (f"{prefix}system_prompt", f"{prefix}instructions")
            yield _Place(names, _text(message.get("content")), _put_message(field, index))
            return


def _put_message(field: str, index: int) -> Callable[[dict[str, Any], str], None]:
    def put(changed: dict[str, Any], text: str) -> None:
        messages = [*changed[field]]
        messages[index] = {**messages[index], "content": _worded(messages[index].get("content"), text)}
        changed[field] = messages

    return put


def _put_tool(index: int, inner: str | None) -> Callable[[dict[str, Any], str], None]:
    def put(changed: dict[str, Any], text: str) -> None:
        tools = [*changed["tools"]]
        tool = tools[index]
        tools[index] = {**tool, inner: {**tool[inner], "description": text}} if inner else {**tool, "description": text}
        changed["tools"] = tools

    return put


def _list(value: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) if isinstance(item, dict) else {} for item in items]


def _text(content: Any) -> Any:
    """The text of a message whose content is a list of one text part; any other content as it is."""
    parts = _list(content)
    return parts[0]["text"] if len(parts) == 1 and isinstance(parts[0].get("text"), str) else content


def _worded(content: Any, text: str) -> Any:
    """A message's content with another text, in the form that it has."""
    return [{**_list(content)[0], "text": text}] if isinstance(content, list) and isinstance(_text(content), str) else text


def check(values: Mapping[str, Resource], roles: Roles, listed: Mapping[str, PromptTemplate] | None) -> None:
    """Refuse prompt templates that would have no effect.

    Args:
        values: the resources. Templates whose name has a dot are meant for the agent; the others are the user's code's own.
        roles: what is done with the calls of each role.
        listed: the agent's prompts by name, as far as they are known before it runs. A role that is not among them may be that
            of an agent inside a tool.

    Raises:
        ConfigError: a prompt that a known role does not have, two names of one prompt, or a role that is left alone.
    """
    named, known = _named(values), {_role_of(name) for name in listed or ()}
    for name in named:
        role = _role_of(name)
        if roles.is_original(role):
            raise ConfigError(f"the resource `{name}` has no effect: calls of the role `{role}` are left alone (`original` in `roles`)")
        other = f"{role}.system_prompt"
        if name == f"{role}.instructions" and other in named:
            raise ConfigError(f"the resources `{other}` and `{name}` name the same prompt; give one of them")
        if listed and role in known and name not in listed:
            close = difflib.get_close_matches(name, listed, 1)
            meant = f"; did you mean `{close[0]}`?" if close else ""
            raise ConfigError(f"the agent has no prompt `{name}`{meant} It has {sorted(listed)} (`agl.prompts` lists them)")


def unused(values: Mapping[str, Resource], results: Iterable[RolloutResult]) -> list[str]:
    """Names of the prompt templates meant for the agent that none of these rollouts has used."""
    used = {name for result in results for span in result.spans for name in span.attributes.get(USED_PROMPTS, ())}
    return [name for name in _named(values) if name not in used]


def prompt_diff(old: Mapping[str, PromptTemplate], new: Mapping[str, PromptTemplate]) -> str:
    """Unified diffs of the prompts that have both names and differ, one after the other; empty when none does."""
    lines: list[str] = []
    for name in sorted(old.keys() & new.keys()):
        before, after = ((template.template + "\n").splitlines() for template in (old[name], new[name]))
        lines += difflib.unified_diff(before, after, f"{name} (before)", f"{name} (after)", lineterm="", n=1_000)
    return "".join(f"{line}\n" for line in lines)


def _named(values: Mapping[str, Resource]) -> list[str]:
    return [name for name, value in values.items() if isinstance(value, PromptTemplate) and "." in name]


def _role_of(name: str) -> str:
    head, dot, _ = name.partition(".tools.")
    return head if dot else name.rpartition(".")[0]


def _results(given: Any) -> list[RolloutResult] | None:
    if isinstance(given, RolloutResult):
        return [given]
    if isinstance(given, Evaluation):
        return list(given.results)
    if isinstance(given, (list, tuple)) and given and all(isinstance(item, RolloutResult) for item in cast("list[Any]", given)):
        return list(cast("list[RolloutResult]", given))
    return None
