"""Hands the attempt's handler to LangChain, as soon as LangChain is imported and not before.

An agent may import its framework inside the function that runs it. Importing it here for every process costs a second
and tens of megabytes that an agent of another framework never needs, so an import that has not happened is waited for.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from agl.importing import OnImport
from agl_langgraph import _tracing

MODULE = "langchain_core.tracers.context"
"""Where LangChain keeps the hooks that add handlers to each run."""


class _HandlerOfAttempt:
    """Stands where LangChain expects a context variable: its value is the handler of the attempt in the context."""

    name = "agl_langchain_handler"

    def get(self, default: Any = None) -> Any:
        """The handler of the current attempt, or `default`."""
        trace = _tracing.current_trace()
        if trace is None:
            return default
        from agl_langgraph._handler import handler_of

        return handler_of(trace)


def watch() -> None:
    """Register with LangChain once per process: now if it is imported, else when it will be."""
    _LANGCHAIN.start()


def unwatch() -> None:
    """Leave LangChain as it was before `watch`."""
    _LANGCHAIN.stop()
    hooks = getattr(sys.modules.get(MODULE), "_configure_hooks", None)  # there is no public way to take one back
    if hooks is not None:
        hooks[:] = [entry for entry in hooks if not isinstance(entry[0], _HandlerOfAttempt)]
    if "agl_langgraph._cache" in sys.modules:
        importlib.import_module("agl_langgraph._cache").give_back_cache()


def _register(module: Any) -> None:
    module.register_configure_hook(_HandlerOfAttempt(), inheritable=True)


_LANGCHAIN = OnImport(MODULE, _register)
