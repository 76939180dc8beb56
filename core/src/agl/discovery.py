"""Discovery: which plugins are installed, and which of them may be loaded. Reads metadata, imports nothing."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from agl.installed import Installed, plain_name
from agl.settings import PluginSettings

GROUP = "agl"
CORE = "agl-core"
DISABLED_VARIABLE = "AGL_PLUGINS_DISABLED"
"""Comma-separated plugins that are not loaded: names, `package:name`, or `*` for all but the core's own."""
ALLOWED_VARIABLE = "AGL_PLUGINS"
"""Comma-separated names: only these, and the core's own, are loaded."""
INSTRUMENTS = "instruments"
"""The extra whose requirements are the frameworks that a plugin supports."""


class PluginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One discovered plugin and what became of it."""

    name: str
    package: str
    version: str
    state: str
    """`ok`, `blocked`, `unsupported`, `clash`, `failed` or `unknown-hook`; `found` before it is loaded."""
    reason: str = ""
    frameworks: dict[str, str | None] = {}
    """Installed versions of the frameworks that its metadata names; None for one that is missing."""
    hooks: tuple[str, ...] = ()
    """Those that it implements, once it is loaded."""
    seconds: float | None = None
    """Time that loading took."""


class Discovered(NamedTuple):
    """A row, and the entry point that would load it."""

    row: PluginRow
    entry: importlib.metadata.EntryPoint


class _Package(NamedTuple):
    """What a distribution's metadata says; reading it is what discovery takes its time for, so it is read once."""

    name: str
    version: str
    requires: tuple[str, ...]


def discover(settings: PluginSettings) -> list[Discovered]:
    """Every installed plugin, by name, the core's own last; `state` is `found` for those that may be loaded."""
    installed = Installed()
    entries = [(entry, package, _blocked(entry.name, package.name, settings)) for entry, package in _entries(installed)]
    owners: dict[str, list[str]] = {}
    for entry, package, blocked in entries:
        if not blocked:
            owners.setdefault(entry.name, []).append(package.name)
    found: list[Discovered] = []
    for entry, package, blocked in entries:
        state, reason, frameworks = "found", "", dict[str, str | None]()
        if blocked:
            state, reason = "blocked", blocked
        elif reason := _clash(entry.name, package.name, owners[entry.name]):
            state = "clash"
        else:
            frameworks, reason = _frameworks(package, installed)
            state = "unsupported" if reason else "found"
        row = PluginRow(name=entry.name, package=package.name, version=package.version, state=state, reason=reason, frameworks=frameworks)
        found.append(Discovered(row, entry))
    return sorted(found, key=lambda item: (item.row.package == CORE, item.row.name, item.row.package))


def _entries(installed: Installed) -> Iterator[tuple[importlib.metadata.EntryPoint, _Package]]:
    for dist in installed.with_entry_points(GROUP):
        about = dist.metadata
        package = _Package(about["Name"], about["Version"], tuple(about.get_all("Requires-Dist") or ()))
        yield from ((entry, package) for entry in dist.entry_points.select(group=GROUP))


def package_of(entry: importlib.metadata.EntryPoint) -> str:
    """Name of the distribution that brings an entry point."""
    return entry.dist.name if entry.dist else "?"


def names_in(variable: str) -> list[str]:
    """The comma-separated names of an environment variable."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def unmet(rows: Iterable[PluginRow], settings: PluginSettings) -> list[str]:
    """What the settings and the environment ask of plugins and do not get, each as a sentence that says what to do."""
    rows = list(rows)
    found: list[str] = []
    for text in settings.required:
        if problem := _missing(text, rows):
            found.append(f"[plugins] required `{text}`: {problem}")
    known = {row.name for row in rows}
    named = {"[plugins] order": settings.order, f"${ALLOWED_VARIABLE}": names_in(ALLOWED_VARIABLE)}
    for where, names in named.items():
        found += [
            f"{where} names the plugin `{name}`, which is not installed; there are {sorted(known)}" for name in names if name not in known
        ]
    return found


def _missing(text: str, rows: list[PluginRow]) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        return f"is no requirement such as `agl-langgraph>=0.1`: {error}"
    bringing = [row for row in rows if plain_name(row.package) == plain_name(wanted.name) or row.name == wanted.name]
    if not bringing:
        return f"is not installed: pip install '{text}'"
    for row in bringing:
        if not wanted.specifier.contains(row.version, prereleases=True):
            return f"{row.package} {row.version} is installed: pip install '{row.package}{wanted.specifier}'"
        if row.state not in ("ok", "found"):
            return f"plugin `{row.name}` is {row.state}: {row.reason}"
    return ""


def _blocked(name: str, package: str, settings: PluginSettings) -> str:
    """Why a plugin must not be loaded; empty when it may."""
    for where, names in ((f"${DISABLED_VARIABLE}", names_in(DISABLED_VARIABLE)), ("[plugins] disabled", settings.disabled)):
        if name in names or f"{package}:{name}" in names or ("*" in names and package != CORE):
            return f"named in {where}"
    allowed = names_in(ALLOWED_VARIABLE)
    if allowed and package != CORE and name not in allowed:
        return f"not named in ${ALLOWED_VARIABLE}"
    return ""


def _clash(name: str, package: str, owners: list[str]) -> str:
    """Why a plugin's name is not its own; empty when it is. The core's own names are never taken over."""
    if len(owners) == 1 or package == CORE:
        return ""
    if CORE in owners:
        return f"`{name}` is the core's own; rename the plugin of {package}"
    others = sorted(owner for owner in owners if owner != package) or [package]
    return (
        f"{' and '.join(others)} bring{'s' if len(others) == 1 else ''} a plugin `{name}`, too, and neither is loaded; uninstall one, or block one: "
        f"{DISABLED_VARIABLE}={package}:{name}"
    )


def _frameworks(package: _Package, installed: Installed) -> tuple[dict[str, str | None], str]:
    """Versions of the frameworks that the metadata names, and why they do not fit."""
    texts = [text for text in package.requires if INSTRUMENTS in text]
    if not texts:
        return {}, ""
    from packaging.requirements import Requirement

    frameworks: dict[str, str | None] = {}
    reasons: list[str] = []
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": INSTRUMENTS}):
            continue
        version = installed.version(requirement.name)
        frameworks[requirement.name] = version
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is None:
            reasons.append(f"needs {wanted}, which is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            reasons.append(f"needs {wanted}, installed is {version}")
    return frameworks, f"{'; '.join(reasons)}: pip install '{package.name}[{INSTRUMENTS}]'" if reasons else ""
