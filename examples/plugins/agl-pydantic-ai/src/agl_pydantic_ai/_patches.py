"""Stands before `Agent.iter`, through which every run of every agent goes, as soon as Pydantic AI is imported and not before.

An agent may import its framework inside the function that runs it, and an agent of another framework never needs this
one: an import that has not happened is waited for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import agl
from agl.context import ActiveAttempt, set_call
from agl.patching import Patch, Patches

MODULE = "pydantic_ai.agent"
"""Where `Agent` is defined."""


def apply_when_imported() -> None:
    """Put the patch in place, now or when there is something to patch; a second call does nothing."""
    if MODULE in sys.modules and hasattr(sys.modules[MODULE], "Agent"):
        PATCHES.apply()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())  # type: ignore[arg-type]


def uninstall() -> None:
    """Take back what the plugin has put into the process."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
    PATCHES.undo()


def _in_attempts(original: Callable[..., Any]) -> Callable[..., Any]:
    def iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = agl.current()
        return original(self, *args, **kwargs) if attempt is None else _run(attempt, original, self, args, kwargs)

    return iter


@contextlib.asynccontextmanager
async def _run(attempt: ActiveAttempt, original: Callable[..., Any], agent: Any, args: Any, kwargs: Any) -> AsyncIterator[Any]:
    """A run of an agent inside an attempt, with a capability more."""
    from agl_pydantic_ai._capability import InAttempt

    added = InAttempt(attempt, agent.name or "agent")
    capabilities = [*(kwargs.get("capabilities") or ()), added]
    async with original(agent, *args, **{**kwargs, "capabilities": capabilities}) as run:
        yield run
    if added.last_call is not None:
        # The framework calls models in contexts of their own: say here which call was the last one, for rewards that follow.
        set_call(added.last_call)


PATCHES = Patches(
    "pydantic_ai",
    [Patch(f"{MODULE}:Agent.iter", "runs are recorded, and use the attempt's model", _in_attempts, parameters=("capabilities",))],
    supported="pydantic-ai-slim>=2.20,<3",
)


class _Watcher:
    """A finder on `sys.meta_path` that finds nothing itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == MODULE else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_apply(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_apply(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        PATCHES.apply()

    return exec_module
