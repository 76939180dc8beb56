"""Puts the patches in place as soon as CrewAI is imported, and not before: its import takes seconds."""

from __future__ import annotations

import sys
from types import ModuleType

from agl.importing import OnImport

PACKAGE = "crewai"


def watch() -> None:
    """Patch CrewAI: now if it is imported, else when it will be.

    Raises:
        PluginError: this version of CrewAI is not what the patches were written for.
    """
    _FRAMEWORK.start()


def uninstall() -> None:
    """Give CrewAI its own methods back, and wait for its import no longer."""
    _FRAMEWORK.stop()
    if "agl_crewai._patches" in sys.modules:
        from agl_crewai._patches import PATCHES

        PATCHES.undo()


def _apply(module: ModuleType) -> None:
    from agl_crewai._patches import PATCHES

    PATCHES.apply()


_FRAMEWORK = OnImport(PACKAGE, _apply)
