"""Puts the patches in place as soon as AutoGen is imported, and not before."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType

from agl.importing import when_imported

PACKAGE = "autogen_agentchat"

_lock = threading.RLock()
_stop_waiting: Callable[[], None] | None = None


def watch() -> None:
    """Patch AutoGen: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of AutoGen is not what the patches were written for.
    """
    global _stop_waiting
    with _lock:
        if _stop_waiting is None:
            _stop_waiting = when_imported(PACKAGE, _apply)


def uninstall() -> None:
    """Give AutoGen its own methods back, and wait for its import no longer."""
    global _stop_waiting
    with _lock:
        if _stop_waiting is not None:
            _stop_waiting()
            _stop_waiting = None
    if "agl_autogen._patches" in sys.modules:
        from agl_autogen._patches import PATCHES

        PATCHES.undo()


def _apply(module: ModuleType) -> None:
    from agl_autogen._patches import PATCHES

    PATCHES.apply()
