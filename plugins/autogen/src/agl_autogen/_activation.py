"""Puts the patches in place as soon as AutoGen is imported, and not before."""

from __future__ import annotations

import sys
from types import ModuleType

from agl.importing import OnImport

PACKAGE = "autogen_agentchat"


def watch() -> None:
    """Patch AutoGen: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of AutoGen is not what the patches were written for.
    """
    _FRAMEWORK.start()


def uninstall() -> None:
    """Give AutoGen its own methods back, and wait for its import no longer."""
    _FRAMEWORK.stop()
    if "agl_autogen._patches" in sys.modules:
        from agl_autogen._patches import PATCHES

        PATCHES.undo()


def _apply(module: ModuleType) -> None:
    from agl_autogen._patches import PATCHES

    PATCHES.apply()


_FRAMEWORK = OnImport(PACKAGE, _apply)
