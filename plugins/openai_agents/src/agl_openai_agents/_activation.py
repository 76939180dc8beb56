"""Puts the patches in place as soon as the SDK is imported, and not before.

An agent may import its framework inside the function that runs it. An import that has not happened yet is waited for: a
process whose agents belong to another framework does not pay for it. `agents` is a name that a user's own package may
have, too; the SDK is told by its runner.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE = "agents.run"

_lock = threading.Lock()


class _Watcher:
    """A finder on `sys.meta_path`. No base class: `importlib.abc` alone costs more than the rest of this plugin."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            _apply_after(spec.loader)
        return spec


_watcher: Any = _Watcher()


def watch() -> None:
    """Patch the SDK: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of the SDK is not what the patches were written for.
    """
    with _lock:
        module = sys.modules.get(MODULE)
        if module is None and _watcher not in sys.meta_path:
            sys.meta_path.insert(0, _watcher)
    if module is not None:
        _apply(module)


def uninstall() -> None:
    """Give the SDK its own methods and processors back, and wait for its import no longer."""
    with _lock:
        if _watcher in sys.meta_path:
            sys.meta_path.remove(_watcher)
    if "agl_openai_agents._patches" in sys.modules:
        from agl_openai_agents._patches import PATCHES

        PATCHES.undo()
    if "agl_openai_agents._processor" in sys.modules:
        from agl_openai_agents import _processor

        _processor.unregister()


def _apply(module: ModuleType) -> None:
    if hasattr(module, "AgentRunner") or hasattr(module, "Runner"):
        from agl_openai_agents._patches import PATCHES

        PATCHES.apply()


def _apply_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if _watcher in sys.meta_path:
            _apply(module)

    loader.exec_module = exec_module
