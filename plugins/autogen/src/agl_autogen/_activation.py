"""Puts the patches in place as soon as AutoGen is imported, and not before.

An agent may import its framework inside the function that runs it. An import that has not happened yet is waited for:
a process whose agents belong to another framework does not pay for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "autogen_agentchat"

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
    """Patch AutoGen: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of AutoGen is not what the patches were written for.
    """
    if PACKAGE in sys.modules:
        _apply()
        return
    with _lock:
        if _watcher not in sys.meta_path:
            sys.meta_path.insert(0, _watcher)


def uninstall() -> None:
    """Give AutoGen its own methods back, and wait for its import no longer."""
    with _lock:
        if _watcher in sys.meta_path:
            sys.meta_path.remove(_watcher)
    if "agl_autogen._patches" in sys.modules:
        from agl_autogen._patches import PATCHES

        PATCHES.undo()


def _apply() -> None:
    from agl_autogen._patches import PATCHES

    PATCHES.apply()


def _apply_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if _watcher in sys.meta_path:
            _apply()

    loader.exec_module = exec_module
