"""Registry: drivers, one of many by name, behind one façade over stevedore.

Listing reads metadata and imports nothing; loading imports the named driver alone.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from typing import Any

from agl.compat import COMING
from agl.discovery import package_of
from agl.errors import ConfigError, PluginError
from agl.installed import plain_name
from agl.settings import Settings

GROUPS = ("agl.algorithms", "agl.stores", "agl.engines", "agl.executors", "agl.trackers", "agl.rewards")
_KNOWN_PACKAGES = {
    ("agl.algorithms", "grpo"): "agl-grpo",
    ("agl.algorithms", "apo"): "agl-apo",
    ("agl.algorithms", "gepa"): "agl-gepa",
    ("agl.algorithms", "verl"): "agl-verl",
    ("agl.executors", "ray"): "agl-ray",
    ("agl.engines", "native"): "agl-grpo",
    ("agl.engines", "vllm"): "agl-grpo",
}
"""Packages of this project, for those who ask for what they have not installed."""


def drivers(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Entry points of a group by name; two under one name are a clash that `load` refuses."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return dict(sorted(found.items()))


def load(group: str, name: str) -> Any:
    """The driver of a name, or of `dist:name` where two packages bring it.

    Raises:
        PluginError: unknown, ambiguous, or its module cannot be imported.
    """
    from stevedore import DriverManager, ExtensionManager

    dist, _, short = name.rpartition(":")
    entries = [entry for entry in drivers(group).get(short, []) if not dist or plain_name(package_of(entry)) == plain_name(dist)]
    kind = group.removeprefix("agl.").rstrip("s")
    if not entries:
        raise PluginError(_unknown(group, kind, name, short))
    if len(entries) > 1:
        packages = sorted(map(package_of, entries))
        which = " or ".join(f"`{package}:{short}`" for package in packages)
        raise PluginError(f"{packages} both bring the {kind} `{short}`; say which: {which}")
    # stevedore's disk cache keeps the entry points of an edited package for two minutes and loses their distribution.
    ExtensionManager.ENTRY_POINT_CACHE[group] = entries
    try:
        return DriverManager(group, short, invoke_on_load=False).driver
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise PluginError(f"{kind} `{name}` of {package_of(entries[0])} could not be loaded: {type(error).__name__}: {error}") from error
    finally:
        ExtensionManager.ENTRY_POINT_CACHE.pop(group, None)


def _unknown(group: str, kind: str, name: str, short: str) -> str:
    known = drivers(group)
    said = f"no {kind} is named `{name}`; there are {sorted(known)}"
    if short in known:
        return f"{said}, and `{short}` comes from {sorted(map(package_of, known[short]))}"
    if package := _KNOWN_PACKAGES.get((group, short.lower())):
        return f"{said}; `pip install {package}` brings it"
    close = difflib.get_close_matches(short, known, 1)
    return f"{said}; did you mean `{close[0]}`?" if close else f"{said}; install the package that brings it"


def check_sections(settings: Settings) -> None:
    """Refuse options in agl.toml of an algorithm or a reward that there is not.

    Raises:
        ConfigError: no installed package brings it, and none of this project would.
    """
    for section, named in (("algorithms", settings.algorithms), ("rewards", settings.rewards)):
        known = {*(drivers(f"agl.{section}") if named else ()), *(name for group, name in _KNOWN_PACKAGES if group == f"agl.{section}")}
        for name in named:
            if (short := name.rpartition(":")[2]) not in known:
                close = difflib.get_close_matches(short, known, 1)
                meant = f"did you mean `{close[0]}`? Else " if close else ""
                raise ConfigError(
                    f"agl.toml has options in [{section}.{name}], and no installed package brings `{short}`: {meant}install the package that "
                    f"brings it, or take the section out; there are {sorted(known)}"
                )


def algorithm_class(name: str) -> Any:
    """The algorithm behind `agl.GRPO` and its like.

    Raises:
        AttributeError: no installed package brings it (what attribute access must raise).
    """
    try:
        return load("agl.algorithms", name.lower())
    except PluginError as error:
        reason = COMING.get(name, error)
        raise AttributeError(f"module `agl` has no attribute `{name}`: {reason}") from error
