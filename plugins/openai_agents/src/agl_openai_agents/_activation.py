"""Puts the patches in place as soon as the SDK is imported, and not before.

`agents` is a name that a user's own package may have, too; the SDK is told by its runner.
"""

from __future__ import annotations

import sys
from types import ModuleType

from agl.importing import OnImport

MODULE = "agents.run"


def watch() -> None:
    """Patch the SDK: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of the SDK is not what the patches were written for.
    """
    _FRAMEWORK.start()
    if "agl_openai_agents._patches" in sys.modules:
        from agl_openai_agents._patches import PATCHES

        if PATCHES.applied:
            from agl_openai_agents import _processor

            _processor.register()  # traces that user code opens around its runs are heard from the start


def uninstall() -> None:
    """Give the SDK its own methods and processors back, and wait for its import no longer."""
    _FRAMEWORK.stop()
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


_FRAMEWORK = OnImport(MODULE, _apply)
