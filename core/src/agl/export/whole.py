"""Files and folders that appear whole or not at all: written under another name beside it, renamed at the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Generator
from pathlib import Path

from agl.errors import ConfigError


@contextlib.contextmanager
def whole(path: Path, *, replace: bool = False, entries: Collection[str] = ()) -> Generator[Path]:
    """Yields the name to write to, a file or a folder; after the block it has the name `path`, after an exception it is gone.

    Args:
        entries: what a folder may hold that is replaced; one that holds anything else is not ours to remove.

    Raises:
        ConfigError: there is something at `path` already that may not be replaced; or it cannot be written there.
    """
    path = path.absolute()
    _check(path, replace, entries)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        yield partial
        if partial.is_dir():  # only a file takes the place of another in one step
            _remove(path)
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be written: {error.strerror or error}") from error
    finally:
        _remove(partial)


def _check(path: Path, replace: bool, entries: Collection[str]) -> None:
    if path.is_dir() and (others := sorted({item.name for item in path.iterdir()} - set(entries))):
        raise ConfigError(f"`{path}` is a folder with {others[:3]} in it, which are not replaced; give another name")
    if path.exists() and not replace:
        raise ConfigError(f"`{path}` is there already; give another name, or replace it with `--force`")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
