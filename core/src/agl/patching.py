"""Patches: what a plugin must change in a library that offers no public way, as rows of a table that can be undone.

    PATCHES = Patches("openai_sdk", [Patch("openai:OpenAI.request", "calls go to the attempt", through_attempt)])
    PATCHES.apply_when_imported()

Prefer the library's own extension points. A replacement must leave everything alone outside an attempt: it stays in
place between attempts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from agl.errors import PluginError
from agl.importing import OnImport


class Patch(msgspec.Struct, frozen=True):
    """One row: what is replaced, why, and by what."""

    target: str
    """A function or method: `package.module:Class.method`."""
    why: str
    """Completes the sentence “replaced so that …”."""
    replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
    """The original -> what stands in its place and calls it. `__wrapped__` of the result is set to the original."""
    parameters: Sequence[str] = ()
    """The canary: names that the original's parameters must have among them."""


class _Applied(msgspec.Struct, frozen=True):
    owner: Any
    name: str
    inherited: bool
    original: Any
    replacement: Any


class Patches:
    """A table of patches, applied whole or not at all.

    Args:
        plugin: whose patches they are; errors name it.
        table: the rows, applied in this order and undone in reverse.
        supported: requirement of a version that they are known to fit, such as `openai>=2.30,<4`.
        canary: says what else is missing for the patches to work; an empty list when nothing is.
    """

    def __init__(
        self, plugin: str, table: Sequence[Patch], *, supported: str | None = None, canary: Callable[[], Sequence[str]] | None = None
    ) -> None:
        self.plugin, self.table, self.supported = plugin, tuple(table), supported
        self._canary = canary
        self._applied: list[_Applied] = []
        self._imported = OnImport(self.table[0].target.partition(":")[0], lambda module: self.apply())
        self._lock = threading.RLock()

    @property
    def applied(self) -> bool:
        """Whether they are in place."""
        return bool(self._applied)

    def check(self) -> None:
        """The canary: whether every target still is what it was when the patch was written. Imports the library.

        Raises:
            PluginError: it is not; the message names the library's version, the targets and what they lack.
        """
        problems = self.problems()
        if not problems:
            return
        versions = ", ".join(sorted({_version(patch.target) for patch in self.table}))
        mend = f"; install a version that it knows: `pip install '{self.supported}'`" if self.supported else ""
        raise PluginError(f"plugin `{self.plugin}` cannot patch {versions}: {'; '.join(problems.values())}{mend}")

    def problems(self) -> dict[str, str]:
        """What is wrong, by the target that is no longer what it was; what else the patches need stands under `canary`."""
        found = {patch.target: problem for patch in self.table if (problem := _problem(patch))}
        if not found and self._canary is not None and (lacking := self._canary()):
            found["canary"] = "; ".join(lacking)
        return found

    def apply(self) -> None:
        """Put all in place; a second call does nothing.

        Raises:
            PluginError: a target is not what it was; nothing is changed then.
        """
        with self._lock:
            if self._applied:
                return
            self.check()
            for patch in self.table:
                owner, name = _owner(patch.target)
                original, inherited = getattr(owner, name), name not in vars(owner)
                kept = original if inherited else inspect.getattr_static(owner, name)
                replacement = functools.wraps(original)(patch.replacement(original))
                setattr(owner, name, replacement)
                self._applied.append(_Applied(owner, name, inherited, kept, replacement))

    def apply_when_imported(self) -> None:
        """Put all in place once the first row's module is imported, now or later; a second call does nothing.

        An agent may import its framework inside its first rollout: a plugin that patches only what is there already misses it.

        Raises:
            PluginError: as `apply`, here or out of the import.
        """
        with self._lock:
            if not self._applied:
                self._imported.start()

    def undo(self) -> None:
        """Give every owner its own object back, in reverse; what another library has wrapped since is left in place.

        Ends the waiting of `apply_when_imported`, too.
        """
        with self._lock:
            self._imported.stop()
            while self._applied:
                row = self._applied.pop()
                if inspect.getattr_static(row.owner, row.name, None) is not row.replacement:
                    continue
                if row.inherited:
                    delattr(row.owner, row.name)
                else:
                    setattr(row.owner, row.name, row.original)


def _owner(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    return functools.reduce(getattr, owners, importlib.import_module(module)), name


def _problem(patch: Patch) -> str:
    """What is wrong with a patch's target; empty when nothing is."""
    try:
        owner, name = _owner(patch.target)
        original = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        return f"`{patch.target}` (replaced so that {patch.why}) is gone: {error}"
    if not inspect.isroutine(original) or isinstance(inspect.getattr_static(owner, name), (staticmethod, classmethod)):
        return f"`{patch.target}` (replaced so that {patch.why}) is no longer a plain function but {original!r}"
    missing = sorted(set(patch.parameters) - set(inspect.signature(original).parameters))
    return f"`{patch.target}` (replaced so that {patch.why}) has no parameters {missing} any more" if missing else ""


def _version(target: str) -> str:
    package = target.partition(":")[0].partition(".")[0]
    packages: Mapping[str, list[str]] = importlib.metadata.packages_distributions()
    found = sorted(set(packages.get(package, [])))
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in found) or package
