"""The prompts of agents and teams by name, and those that only the framework can fill in, put in for one run.

System prompts and tool descriptions are put into the requests by the core. A selector's prompt is a template that the
framework fills in for each call; the instructions of a society of mind may be sent as a user's message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from agl.agents import is_instance_of
from agl.context import ActiveAttempt
from agl.errors import ConfigError
from agl.resources import PromptTemplate
from agl_autogen import _names
from agl_autogen._names import children_of, manager_of, private, tools_of

_OWN = {
    _names.SELECTOR: {"_selector_prompt": "selector_prompt"},
    _names.SELECTOR_MANAGER: {"_selector_prompt": "selector_prompt"},
    _names.SOCIETY: {"_instruction": "instruction", "_response_prompt": "response_prompt"},
}
"""Attributes that hold a prompt, with the name it has behind the role."""
_PLACEHOLDERS = {"selector_prompt": {"roles", "participants", "history"}}


def list_prompts(agent: Any) -> dict[str, PromptTemplate] | None:
    """Every prompt of an agent or a team by name; None for anything else."""
    if not is_instance_of(agent, _names.AGENT, _names.TEAM):
        return None
    return {name: PromptTemplate(template=text) for name, text in _texts(agent, "")}


def _texts(member: Any, around: str) -> Iterator[tuple[str, str]]:
    role = "/".join(part for part in (around, member.name) if part)
    asker = f"{role}/{manager_of(member)}" if is_instance_of(member, _names.SELECTOR) else role
    for attribute, word in _own(member).items():
        yield f"{asker}.{word}", private(member, attribute)
    for message in getattr(member, "_system_messages", None) or ():
        yield f"{role}.system_prompt", message.content
    for tool in tools_of(member):
        yield f"{role}.tools.{tool.name}.description", tool.schema.get("description", "")
    for child in children_of(member):
        yield from _texts(child, role)


@contextlib.contextmanager
def put_in(subject: Any, role: str | None, attempt: ActiveAttempt) -> Iterator[None]:
    """Exchange the prompts of one agent or manager while it runs: the framework allows no two runs of it at the same time.

    Raises:
        ConfigError: a template has placeholders that the framework does not fill in.
    """
    before: dict[str, Any] = {}
    try:
        for attribute, word in _own(subject).items():
            template = attempt.claim_prompt(f"{role}.{word}")
            if template is not None:
                _check(f"{role}.{word}", word, template)
                before[attribute] = private(subject, attribute)
                setattr(subject, attribute, template.template)
        yield
    finally:
        for attribute, text in before.items():
            setattr(subject, attribute, text)


def _own(subject: Any) -> dict[str, str]:
    return next((words for name, words in _OWN.items() if is_instance_of(subject, name)), {})


def _check(name: str, word: str, template: PromptTemplate) -> None:
    known = _PLACEHOLDERS.get(word)
    unknown = template.placeholders() - known if known is not None else set()
    if unknown:
        raise ConfigError(f"the prompt `{name}` has the placeholders {sorted(unknown)}; AutoGen fills in {sorted(known or ())}")
