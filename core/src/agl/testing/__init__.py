"""The author's kit: conformance suites, a scripted server and fixtures for tests of agents, plugins and algorithms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agl.testing.expected import Conformance, ConformanceError
    from agl.testing.frameworks import FrameworkConformance
    from agl.testing.scripted import Reply, ScriptedServer

# Imported when first used: the pytest plugin of this package costs those nothing who do not use it.
_HOMES = {
    "Conformance": "agl.testing.expected",
    "ConformanceError": "agl.testing.expected",
    "FrameworkConformance": "agl.testing.frameworks",
    "Reply": "agl.testing.scripted",
    "ScriptedServer": "agl.testing.scripted",
}

__all__ = ["Conformance", "ConformanceError", "FrameworkConformance", "Reply", "ScriptedServer"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `agl.testing` has no attribute `{name}`; it has {sorted(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
