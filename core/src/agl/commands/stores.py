"""`--store`, the option of all commands that read a store."""

from __future__ import annotations

from pathlib import Path

import click

from agl.settings import DEFAULT_STORE

HELP = f"Path, URL or driver of the store; default: the one of agl.toml, or {DEFAULT_STORE}."
store_option = click.option("--store", help=HELP)


def store_of(given: str | None) -> str:
    """The store that is meant, for `agl.store.opening`."""
    from agl.settings import read_settings

    return given or read_settings().trainer.store or DEFAULT_STORE


def existing_store(given: str | None, otherwise: str = "name the run's own with `--store`") -> str:
    """The store that is meant; where it is a file, it must be there: opening it would make one.

    Raises:
        NotFoundError: there is no such file.
    """
    from agl.errors import NotFoundError
    from agl.store.opening import path_of

    store = store_of(given)
    path: Path | None = path_of(store)
    if path is not None and not path.exists():
        raise NotFoundError(f"there is no store `{path}`; {otherwise}")
    return store
