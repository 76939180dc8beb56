"""Opening a store by what a user gives for it: a path, a URL, a driver's name with its options, or the object itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

from agl.discovery import CORE
from agl.errors import ConfigError
from agl.registry import drivers, load
from agl.store.base import Store
from agl.store.urls import without_password

StoreSpec = Store | str | Path | Mapping[str, Any]
"""A `Store`, a path of an SQLite file, a URL, the name of a driver, or `{"driver": name, option: value}`."""
_GROUP = "agl.stores"


def open_store(given: StoreSpec) -> Store:
    """The store that is meant; a `Store` is given back as it is.

    A URL's scheme is the driver's name (`sqlite:///runs.sqlite`). A text is a driver's name where one has it, else the path
    of an SQLite file.

    Raises:
        ConfigError: it names no store, or has options that the driver does not take.
        PluginError: there is no such driver; the message lists those there are.
        StoreError: it cannot be opened.
    """
    if isinstance(given, Store):
        return given
    if (path := path_of(given)) is not None:
        return _driver(f"{CORE}:sqlite")(path)
    if isinstance(given, str):
        name, separator, _ = given.partition("://")
        return _driver(name.partition("+")[0]).from_url(given) if separator else _driver(given)()
    if isinstance(cast(object, given), Mapping):
        return _with_options(cast(Mapping[str, Any], given))
    raise ConfigError(f"`store` must be an `agl.store.base.Store`, a path, a URL or a driver's name, given was {given!r}")


def path_of(given: StoreSpec) -> Path | None:
    """The path of the SQLite file that is meant; None when something else is.

    Raises:
        ConfigError: the text is empty.
    """
    if isinstance(given, Path):
        return given
    if not isinstance(given, str) or "://" in given or given in drivers(_GROUP):
        return None
    if not given.strip():
        raise ConfigError("`store` is empty; give a path such as `.agl/store.sqlite`, a URL or a driver's name")
    return Path(given)


def without_passwords(argument: str) -> str:
    """A text, such as an argument of a command line, in which URLs of stores have no password."""
    schemes = "|".join(map(re.escape, drivers(_GROUP)))
    return re.sub(rf"\b(?:{schemes})(?:\+\w+)?://\S+", lambda found: without_password(found[0]), argument)


@contextlib.contextmanager
def opened(given: StoreSpec) -> Generator[Store]:
    """The store that is meant, closed afterwards unless it was given as an object: that one stays its owner's."""
    store = open_store(given)
    try:
        yield store
    finally:
        if store is not given:
            store.close()


def _with_options(given: Mapping[str, Any]) -> Store:
    options = dict(given)
    name = options.pop("driver", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"`store` needs the driver's name: {{'driver': 'sqlite', 'path': …}}, given were {sorted(given)}; "
            f"there are {sorted(drivers(_GROUP))}"
        )
    try:
        return _driver(name)(**options)
    except TypeError as error:
        raise ConfigError(f"the store `{name}` does not take {sorted(options)}: {error}") from error


def _driver(name: str) -> Any:
    driver = load(_GROUP, name)
    if not (isinstance(driver, type) and issubclass(driver, Store)):
        raise ConfigError(f"the driver `{name}` of {_GROUP} must be a class derived from `agl.store.base.Store`, it is {driver!r}")
    return driver
