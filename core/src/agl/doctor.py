"""Doctor: checks of environment, plugins, store, ports and engine, each with what to type when it fails."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from agl import __version__
from agl.discovery import PluginRow
from agl.errors import AglError
from agl.plugins import Plugins
from agl.settings import DEFAULT_STORE, Settings, read_settings

FREE_BYTES = 2**30
"""Free disk below which checkpoints are likely to fail."""
_FAILING = {"failed", "clash", "unknown-hook"}
"""States of an installed plugin that somebody has to do something about."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    state: Literal["ok", "warn", "fail"]
    """`fail` is for what an installation or a configuration asks for and cannot get."""
    found: str
    fix: str = ""
    """What to type."""


def examine(
    *, folder: Path, algorithm: str | None = None, store: str | None = None, endpoint: str | None = None, port: int = 0
) -> list[Check]:
    """All checks, for a project in `folder`; what is given goes before what its settings say.

    Changes nothing but the schema of a store of an older version, or of a database without one.
    """
    checks = list(_environment(folder))
    try:
        settings = read_settings()
    except AglError as error:
        return [*checks, Check(name="settings", state="fail", found=str(error), fix="correct the file")]
    plugins = Plugins()
    checks += _plugins(plugins)
    checks += _drivers(settings, algorithm)
    checks.append(_store(store or settings.trainer.store))
    checks.append(_port(port))
    if endpoint:
        checks.append(_endpoint(endpoint))
    return checks


def _environment(folder: Path) -> Iterator[Check]:
    yield Check(name="python", state="ok", found=f"{platform.python_version()} at {sys.executable}")
    yield Check(name="agl", state="ok", found=f"{__version__} on {platform.platform(terse=True)}, {os.cpu_count()} CPU cores")
    free = shutil.disk_usage(folder).free
    low = free < FREE_BYTES
    found = f"{free / 2**30:.1f} GiB free in {folder}"
    yield Check(name="disk", state="warn" if low else "ok", found=found, fix="free some space, checkpoints need it" if low else "")


def _plugins(plugins: Plugins) -> Iterator[Check]:
    for row in plugins.rows:
        state = "fail" if row.state in _FAILING else "ok" if row.state in ("ok", "blocked") else "warn"
        found = f"{row.package} {row.version}: {row.state}" + (f", {row.reason}" if row.reason else "")
        yield Check(name=f"plugin {row.name}", state=state, found=found, fix=_plugin_fix(row) if state != "ok" else "")
    try:
        plugins.check()
    except AglError as error:
        yield Check(name="plugins asked for", state="fail", found=str(error), fix="as it says, or correct agl.toml")


def _plugin_fix(row: PluginRow) -> str:
    if row.state == "unsupported":
        return row.reason.rpartition(": ")[2] if "pip install" in row.reason else f"pip install --upgrade {row.package}"
    if row.state == "clash":
        return f"uninstall one of the packages, or AGL_PLUGINS_DISABLED={row.package}:{row.name}"
    return f"agl plugins --traceback; pip install --upgrade {row.package}, or AGL_PLUGINS_DISABLED={row.name}"


def _drivers(settings: Settings, algorithm: str | None) -> Iterator[Check]:
    """What the settings name can be loaded, and says itself whether it can work here."""
    trainer = settings.trainer
    executors = [trainer.executor] if trainer.executor else []
    asked = {"agl.executors": executors, "agl.trackers": [name.partition("=")[0] for name in trainer.trackers or ()]}
    for group, names in asked.items():
        for name in names:
            yield _attempt(f"{group.removeprefix('agl.').rstrip('s')} {name}", functools.partial(_load, group, name))
    if settings.algorithms or settings.rewards:
        yield _attempt("agl.toml", functools.partial(_sections, settings))
    for name in trainer.rewards or ():
        yield _attempt(f"reward {name}", functools.partial(_reward, name, settings))
    if name := algorithm or trainer.algorithm:
        yield _attempt(f"algorithm {name}", lambda: _algorithm(name, settings.algorithms.get(name.rpartition(":")[2], {})))


def _load(group: str, name: str) -> str:
    from agl.registry import load

    driver = load(group, name)
    return f"{driver.__module__}.{getattr(driver, '__qualname__', driver)}"


def _sections(settings: Settings) -> str:
    from agl.registry import check_sections

    check_sections(settings)
    return f"options of {[*settings.algorithms, *settings.rewards]}"


def _reward(name: str, settings: Settings) -> str:
    from agl.judges import given_rewards

    given_rewards([name], settings.rewards)
    return "can be made"


def _algorithm(name: str, options: dict[str, Any]) -> str:
    from agl.registry import load

    cls = load("agl.algorithms", name)
    if not options:
        return f"{cls.__module__}.{cls.__qualname__}; its options are not in agl.toml, so they are not checked"
    return cls(**options).check() or "can start"


def _store(given: str | None) -> Check:
    from agl.store.opening import open_store, path_of
    from agl.store.urls import without_password

    def ask() -> str:
        path = path_of(given or DEFAULT_STORE)
        if path is not None and not path.exists():
            return "does not exist yet; a run makes it"
        open_store(given or DEFAULT_STORE).close()
        return "opens"

    return _attempt(f"store {without_password(given or DEFAULT_STORE)}", ask)


def _port(port: int) -> Check:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            fix = "choose another port, or 0 for any free one"
            return Check(name="gateway port", state="fail", found=f"127.0.0.1:{port}: {error.strerror}", fix=fix)
    return Check(name="gateway port", state="ok", found=f"127.0.0.1:{port or 'any'} can be bound")


def _endpoint(endpoint: str) -> Check:
    import urllib.error
    import urllib.request

    def ask() -> str:
        url = endpoint.rstrip("/") + "/models"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                listed = msgspec.json.decode(answer.read())
        except urllib.error.HTTPError as error:
            return f"answers {error.code} at {url}"
        return f"serves {[model.get('id') for model in listed.get('data', [])][:5]}"

    return _attempt(f"endpoint {endpoint}", ask)


def _attempt(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name=name, state="ok", found=ask())
    except Exception as error:  # whatever a driver or a connection does
        said = str(error) if isinstance(error, AglError) else f"{type(error).__name__}: {error}"
        return Check(name=name, state="fail", found=said, fix=_fix_of(said))


def _fix_of(said: str) -> str:
    """The command that a message names itself."""
    start = said.find("pip install")
    return said[start:].split("`")[0].split("; ")[0] if start >= 0 else "as it says"
