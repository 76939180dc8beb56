"""Roles: who calls in an agent, and what is done with its calls. A role is the path of agent or node names above a call."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import cast

from agl.errors import ConfigError

TRAIN, FREEZE, ORIGINAL = "train", "freeze", "original"
KEYWORDS = (TRAIN, FREEZE, ORIGINAL)


class Roles:
    """Which roles are learned from, and where their calls go.

    A name in `roles` matches a role when it is the role's path or a part of it, of one name or of several in a row; the
    longest name wins. `train` learns from the calls. `freeze` sends them to the same model and does not. `original` leaves
    them alone: they reach the user's own endpoint as the agent sends them. Any other value is the name of an `LLM` resource
    that the calls go to; they are not learned from. Roles that no name matches are trained, unless some role is named
    `train`: then only the named ones are.

    Args:
        agent_match: regular expression; only calls of matching roles are learned from.
        roles: what is done, by name.

    Raises:
        ConfigError: not a regular expression, or a value that is no text.
    """

    def __init__(self, agent_match: str | None = None, roles: Mapping[str, str] | None = None) -> None:
        self.roles = dict(roles or {})
        for name, what in self.roles.items():
            if not isinstance(cast(object, what), str) or not what:
                raise ConfigError(f"`roles[{name!r}]` must be {_choices(())}, given was {what!r}")
        try:
            self.pattern = re.compile(agent_match) if agent_match is not None else None
        except (re.error, TypeError) as error:
            raise ConfigError(f"`agent_match` must be a regular expression, given was {agent_match!r}: {error}") from None

    def check(self, llms: Collection[str]) -> None:
        """Refuse what cannot be done with the language models that there are.

        Args:
            llms: names of the `LLM` resources.

        Raises:
            ConfigError: a value is neither a keyword nor one of these.
        """
        for name, what in self.roles.items():
            if what not in KEYWORDS and what not in llms:
                raise ConfigError(f"`roles[{name!r}]` must be {_choices(llms)}, given was {what!r}")

    def name_of(self, role: str | None) -> str | None:
        """The name in `roles` that matches a role; None when none does."""
        path = f"/{role or ''}/"
        return max((name for name in self.roles if f"/{name}/" in path), key=len, default=None)

    def what(self, role: str | None) -> str | None:
        """What `roles` says of a role; None when it says nothing."""
        name = self.name_of(role)
        return None if name is None else self.roles[name]

    def llm_of(self, role: str | None) -> str | None:
        """Name of the `LLM` resource that a role's calls go to; None when it names none."""
        what = self.what(role)
        return None if what in KEYWORDS else what

    def is_original(self, role: str | None) -> bool:
        """Whether a role's calls are left alone."""
        return self.what(role) == ORIGINAL

    def why_not(self, role: str | None) -> str | None:
        """Why calls of a role are not learned from; None when they are."""
        if self.pattern is not None and not self.pattern.search(role or ""):
            return f"role `{role}` does not match `{self.pattern.pattern}`"
        name = self.name_of(role)
        if name is None:
            return f"role `{role}` is not named in `roles`" if TRAIN in self.roles.values() else None
        what = self.roles[name]
        said = {TRAIN: None, FREEZE: f"role `{name}` is frozen", ORIGINAL: f"role `{name}` is left to its own endpoint"}
        return said.get(what, f"role `{name}` goes to the LLM `{what}`")


def _choices(llms: Collection[str]) -> str:
    there_are = f"there are {sorted(llms)}" if llms else "there is none yet"
    return f"`train`, `freeze`, `original` or the name of an `LLM` resource ({there_are})"
