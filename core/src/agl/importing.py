"""Waiting for an import: a plugin acts when its framework is there, and is never what imports it.

An agent may import its framework inside the function that runs it, and a process whose agents use another framework
should not pay for this one.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Then = Callable[[ModuleType], object]

_lock = threading.RLock()
_waiting: dict[str, list[Then]] = {}
_finding = threading.local()


def when_imported(module: str, then: Then) -> Callable[[], None]:
    """Call `then(module)` once the module is imported: now where it is already, else right after somebody imports it.

    Args:
        module: full name, such as `langchain_core.tracers.context`.
        then: what it raises comes out of the import statement, or of this call.

    Returns:
        A function that stops the waiting; it does nothing when the wait is over.
    """
    with _lock:
        found = sys.modules.get(module)
        if found is None or getattr(found.__spec__, "_initializing", False):
            _waiting.setdefault(module, []).append(then)
            if _FINDER not in sys.meta_path:
                sys.meta_path.insert(0, _FINDER)  # type: ignore[arg-type]
            return lambda: _forget(module, then)
    then(found)
    return lambda: None


class OnImport:
    """Acts once a module is imported, and at most once between `start` and `stop`; for what a plugin puts into its framework.

    Args:
        module: full name.
        then: called with the module.
    """

    def __init__(self, module: str, then: Then) -> None:
        self._module, self._then = module, then
        self._stop: Callable[[], None] | None = None

    def start(self) -> None:
        """Act now if the module is imported, else when it will be; a second call does nothing. What `then` raises comes out here."""
        with _lock:
            if self._stop is None:
                self._stop = when_imported(self._module, self._then)

    def stop(self) -> None:
        """Wait no longer; what was done stays done."""
        with _lock:
            if self._stop is not None:
                self._stop()
                self._stop = None


def _forget(module: str, then: Then) -> None:
    with _lock:
        left = [other for other in _waiting.pop(module, []) if other is not then]
        if left:
            _waiting[module] = left
        _step_aside()


def _step_aside() -> None:
    """Leave the import system as it was once nobody waits."""
    if not _waiting and _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)  # type: ignore[arg-type]


class _Finder:
    """Finds nothing itself: it lets the others find, and acts after the module has run. No base class: `importlib.abc` alone costs milliseconds."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in _waiting or getattr(_finding, "name", None) == fullname:
            return None
        _finding.name = fullname
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            _finding.name = None
        if spec is not None and spec.loader is not None:
            _act_after(spec.loader, fullname)
        return spec


_FINDER: Any = _Finder()


def _act_after(loader: Any, name: str) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        with _lock:
            then = _waiting.pop(name, [])
            _step_aside()
        for action in then:
            action(module)

    loader.exec_module = exec_module
