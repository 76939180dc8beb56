"""What a process looks like before a plugin acts: the functions of a framework's classes and modules, to compare later."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, cast

from agl.testing.case import FrameworkCase

BUILT_IN = ("openai:OpenAI", "openai:AsyncOpenAI")
"""What the core's own plugin shadows."""
Snapshot = dict[tuple[str, str], Any]
"""Values by owner (a module, or `module:Class`) and name."""

_FUNCTIONS = (FunctionType, staticmethod, classmethod, property)
_pristine: dict[tuple[Any, ...], Snapshot] = {}


def pristine(case: FrameworkCase) -> Snapshot:
    """What was there before any check of this process opened an attempt with the case's plugin.

    Raises:
        LookupError: nobody has kept it.
    """
    return _pristine[_key(case)]


def is_kept(case: FrameworkCase) -> bool:
    """Whether `keep_pristine` was called."""
    return _key(case) in _pristine


def keep_pristine(case: FrameworkCase) -> None:
    """Note what is there now, when the agent has run once without AGL and so has imported what it imports late."""
    undo(case)
    _pristine[_key(case)] = snapshot(case)


def _key(case: FrameworkCase) -> tuple[Any, ...]:
    return tuple(case.frameworks), tuple(case.patched_objects), case.plugin_module()


def undo(case: FrameworkCase) -> None:
    """Take back what the plugin and the core's own have put into the process."""
    from agl.builtin import openai_sdk

    case.undo()
    openai_sdk.uninstall()


def snapshot(case: FrameworkCase) -> Snapshot:
    """Functions, classes and lists of functions in the framework's loaded modules and in `patched_objects`, as they are now."""
    prefixes = tuple(case.frameworks)
    modules = [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] in prefixes]
    found: Snapshot = {}
    named = [*case.patched_objects, *(BUILT_IN if "openai" in sys.modules else ())]
    for owner in [*modules, *declared(named).values()]:
        found.update(_members(owner))
    return found


def declared(names: Sequence[str]) -> Mapping[str, Any]:
    """The objects that `package.module:Class` or `package.module` name, where their package is installed."""
    found: dict[str, Any] = {}
    for name in names:
        module, _, attribute = name.partition(":")
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            imported = importlib.import_module(module)
            found[name] = getattr(imported, attribute) if attribute else imported
    return found


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Names whose value is another object than before, or that a class has got since."""
    owners = {owner for owner, _ in before}
    changed = [
        f"{owner}.{name}" for (owner, name), value in after.items() if (owner, name) in before and not _same(before[owner, name], value)
    ]
    added = [
        f"{owner}.{name}"
        for (owner, name), value in after.items()
        if ":" in owner and owner in owners and (owner, name) not in before and isinstance(value, _FUNCTIONS)
    ]
    removed = [f"{owner}.{name}" for (owner, name) in before if (owner, name) not in after]
    return sorted({*changed, *added, *removed})


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        return [id(item) for item in cast("list[Any]", before)] == [id(item) for item in cast("list[Any]", after)]
    return before is after


def _members(owner: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    if not isinstance(owner, type):
        module = cast(ModuleType, owner)
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield from _members(value)
            if isinstance(value, (*_FUNCTIONS, type)):
                yield (module.__name__, name), value
            elif isinstance(value, list):
                yield (module.__name__, name), list(cast("list[Any]", value))
        return
    label = f"{owner.__module__}:{owner.__qualname__}"
    yield (label, "__mro__"), owner  # so that a class without functions is known, too
    for name, value in list(vars(owner).items()):
        if isinstance(value, _FUNCTIONS):
            yield (label, name), value
