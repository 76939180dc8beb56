"""Stands before `Agent.iter`, through which every run of every agent goes, as soon as Pydantic AI is imported and not before.

An agent may import its framework inside the function that runs it, and an agent of another framework never needs this
one: an import that has not happened is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import agl
from agl.context import ActiveAttempt, set_call

MODULE = "pydantic_ai.agent"
"""Where `Agent` is defined."""

_lock = threading.Lock()
_watching = False


def install_when_imported() -> None:
    """Shadow `Agent.iter`, now or when it comes to be; a second call does nothing."""
    global _watching
    with _lock:
        if not _watching:
            _watching = True
            sys.meta_path.insert(0, _Watcher())  # type: ignore[arg-type]
        if MODULE in sys.modules and hasattr(sys.modules[MODULE], "Agent"):
            install()


def install() -> None:
    """Shadow `Agent.iter`."""
    cls = importlib.import_module(MODULE).Agent
    if not hasattr(cls.iter, "__agl_original__"):
        cls.iter = _shadow(cls.iter)


def uninstall() -> None:
    """Give `Agent` its own `iter` back."""
    global _watching
    with _lock:
        _watching = False
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
        if MODULE in sys.modules:
            cls = sys.modules[MODULE].Agent
            cls.iter = getattr(cls.iter, "__agl_original__", cls.iter)


def _shadow(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = agl.current()
        return original(self, *args, **kwargs) if attempt is None else _run_in(attempt, original, self, args, kwargs)

    iter.__agl_original__ = original  # type: ignore[attr-defined]
    return iter


@contextlib.asynccontextmanager
async def _run_in(attempt: ActiveAttempt, original: Callable[..., Any], agent: Any, args: Any, kwargs: Any) -> AsyncIterator[Any]:
    """A run of an agent inside an attempt: with a capability more, and with the prompt that has the agent's name."""
    from agl_pydantic_ai._capability import InAttempt

    added = InAttempt(attempt)
    capabilities = [*(kwargs.get("capabilities") or ()), added]
    prompt = attempt.resources.prompts().get(agent.name)
    async with contextlib.AsyncExitStack() as stack:
        # Instructions are read when the run is entered; nothing stays overridden while it is open.
        with agent.override(instructions=prompt.format()) if prompt else contextlib.nullcontext():
            run = await stack.enter_async_context(original(agent, *args, **{**kwargs, "capabilities": capabilities}))
        yield run
    # The framework calls models in contexts of their own: say here which call was the last one, for rewards that follow.
    if added.last_call is not None:
        set_call(added.last_call)


class _Watcher:
    """A finder on `sys.meta_path` that finds nothing itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == MODULE else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_install(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_install(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        install()

    return exec_module
