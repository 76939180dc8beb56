"""Puts the patches in place as soon as CrewAI is imported, and not before: its import takes seconds.

An agent may import its framework inside the function that runs it, so an import that has not happened yet is waited for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "crewai"

_lock = threading.Lock()


class _Watcher:
    """A finder on `sys.meta_path`. No base class: `importlib.abc` alone costs more than the rest of this plugin."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            _apply_after(spec.loader)
        return spec


_watcher: Any = _Watcher()


def watch() -> None:
    """Patch CrewAI: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of CrewAI is not what the patches were written for.
    """
    with _lock:
        imported = PACKAGE in sys.modules
        if not imported and _watcher not in sys.meta_path:
            sys.meta_path.insert(0, _watcher)
    if imported:
        _apply()


def uninstall() -> None:
    """Give CrewAI its own functions back, and wait for its import no longer."""
    with _lock:
        if _watcher in sys.meta_path:
            sys.meta_path.remove(_watcher)
    if "agl_crewai._patches" in sys.modules:
        from agl_crewai._patches import PATCHES

        PATCHES.undo()


def _apply() -> None:
    from agl_crewai._patches import PATCHES

    PATCHES.apply()


def _apply_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if _watcher in sys.meta_path:
            _apply()

    loader.exec_module = exec_module
