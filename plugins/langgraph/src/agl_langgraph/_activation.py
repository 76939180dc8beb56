"""Hands the attempt's handler to LangChain, as soon as LangChain is imported and not before.

An agent may import its framework inside the function that runs it. Importing it here for every process costs a second
and tens of megabytes that an agent of another framework never needs, so an import that has not happened is waited for.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from agl_langgraph import _tracing

MODULE = "langchain_core.tracers.context"
"""Where LangChain keeps the hooks that add handlers to each run."""

_lock = threading.Lock()
_watching = False


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


class _Watcher:
    """A finder on `sys.meta_path`. No base class: `importlib.abc` alone costs more than the rest of this plugin."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            _register_after(spec.loader)
        return spec


def watch() -> None:
    """Register with LangChain once per process: now if it is imported, else when it will be."""
    global _watching
    with _lock:
        if _watching:
            return
        _watching = True
        if MODULE in sys.modules:
            _register(importlib.import_module(MODULE))
        else:
            sys.meta_path.insert(0, _Watcher())  # type: ignore[arg-type]


def unwatch() -> None:
    """Leave LangChain as it was before `watch`."""
    global _watching
    with _lock:
        _watching = False
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
        hooks = getattr(sys.modules.get(MODULE), "_configure_hooks", None)  # there is no public way to take one back
        if hooks is not None:
            hooks[:] = [entry for entry in hooks if not isinstance(entry[0], _HandlerOfAttempt)]
        if "agl_langgraph._cache" in sys.modules:
            importlib.import_module("agl_langgraph._cache").give_back_cache()


def _register_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _register(module)

    loader.exec_module = exec_module


def _register(module: Any) -> None:
    module.register_configure_hook(_HandlerOfAttempt(), inheritable=True)
