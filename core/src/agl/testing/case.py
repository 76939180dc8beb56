"""Case: what the author of a framework plugin says about it, for the checks of `agl.testing.checks`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

from agl.resources import LLM


class FrameworkCase:
    """A plugin, a small agent of its framework, and the LLM calls that the agent makes. Several kinds of agents are several cases."""

    plugin: Any
    """The plugin: a module, a module's name, or an object."""
    roles: Sequence[str | None]
    """The role of every LLM call of one run, in any order; None for a call without one."""
    frameworks: Sequence[str] = ()
    """Names of the framework's packages, as they are imported: importing the plugin must not need them."""
    entry_point: str | None = None
    """Name of the plugin in the entry-point group `agl`; None for one that is given in code."""

    streams: bool = False
    """The agent asks for its answers as streams."""
    calls_tools: tuple[str, dict[str, Any]] | None = None
    """A tool of the agent with arguments: the scripted model calls it once in each conversation that offers it."""
    has_prompts: Sequence[str] = ()
    """Names of prompt resources that the plugin puts into the agent."""
    retries: bool = False
    """The agent's client tries again when the endpoint answers 500."""
    records_spans: bool = False
    """The plugin records spans of its own around the LLM calls."""
    patched_objects: Sequence[str] = ()
    """Classes (`package.module:Class`) and modules outside of `frameworks` that are shadowed during an attempt."""

    def make_agent(self, llm: LLM) -> Any:
        """A fresh agent as a user builds it, whose own endpoint is `llm` (`llm.base_url`, `llm.api_key`, `llm.model`)."""
        raise NotImplementedError(f"`{type(self).__name__}` must define `make_agent(self, llm)`: a small agent that talks to `llm`")

    def make_input(self, text: str) -> Any:
        """What the agent takes, from a text that must reach the model in its first call."""
        return text

    def output_text(self, output: Any) -> str:
        """The agent's output as a text, which must hold what the model answered."""
        return str(output)

    def run_sync(self, agent: Any, given: Any) -> Any:
        """Call the agent as a user's blocking code does; a case that defines it is also checked in threads."""
        raise NotImplementedError

    async def run_alone(self, agent: Any, given: Any) -> Any:
        """Call the agent as a user's code does without AGL; by default as the plugin's adapter does, outside of an attempt."""
        raise NotImplementedError

    def undo(self) -> None:
        """Take back everything that the plugin has put into the process; by default its `uninstall()`, if it has one."""
        uninstall = getattr(self.plugin_object(), "uninstall", None)
        if uninstall is not None:
            uninstall()

    def plugin_object(self) -> Any:
        """The plugin, imported."""
        return importlib.import_module(self.plugin) if isinstance(self.plugin, str) else self.plugin

    def plugin_module(self) -> str:
        """Name of the module that the plugin is, or is defined in."""
        if isinstance(self.plugin, str):
            return self.plugin
        return self.plugin.__name__ if isinstance(self.plugin, ModuleType) else type(self.plugin).__module__

    def defines(self, method: str) -> bool:
        """Whether the author has written this optional method."""
        return inspect.getattr_static(type(self), method) is not cast(object, inspect.getattr_static(FrameworkCase, method))
