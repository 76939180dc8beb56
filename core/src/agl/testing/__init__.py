"""The author's kit: conformance suites, a scripted server and fixtures for tests of agents, plugins and algorithms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agl.testing.algorithms import AlgorithmConformance
    from agl.testing.engines import EngineConformance
    from agl.testing.executors import ExecutorConformance
    from agl.testing.expected import Conformance, ConformanceError
    from agl.testing.frameworks import FrameworkConformance
    from agl.testing.memory import MemoryStore
    from agl.testing.rewards import RewardConformance
    from agl.testing.scripted import Reply, ScriptedServer
    from agl.testing.stores import StoreConformance
    from agl.testing.trackers import TrackerConformance

# Imported when first used: the pytest plugin of this package costs those nothing who do not use it.
_HOMES = {
    "AlgorithmConformance": "agl.testing.algorithms",
    "Conformance": "agl.testing.expected",
    "ConformanceError": "agl.testing.expected",
    "EngineConformance": "agl.testing.engines",
    "ExecutorConformance": "agl.testing.executors",
    "FrameworkConformance": "agl.testing.frameworks",
    "MemoryStore": "agl.testing.memory",
    "Reply": "agl.testing.scripted",
    "RewardConformance": "agl.testing.rewards",
    "ScriptedServer": "agl.testing.scripted",
    "StoreConformance": "agl.testing.stores",
    "TrackerConformance": "agl.testing.trackers",
}

__all__ = [
    "AlgorithmConformance",
    "Conformance",
    "ConformanceError",
    "EngineConformance",
    "ExecutorConformance",
    "FrameworkConformance",
    "MemoryStore",
    "Reply",
    "RewardConformance",
    "ScriptedServer",
    "StoreConformance",
    "TrackerConformance",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `agl.testing` has no attribute `{name}`; it has {sorted(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
