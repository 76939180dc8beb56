"""Logging as Agent Lightning's scripts set it up, on the standard library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from agl.compat.old import warn_old
from agl.errors import ConfigError

FORMAT = "%(asctime)s [%(levelname)s] (Process-%(process)d %(name)s)   %(message)s"
_MARK = "_agl_handler"


def setup_logging(level: int | str = "INFO", *, apply_to: Iterable[str] = (), files: str | Path | None = None) -> None:
    """Print what AGL, and the loggers named, have to say to standard error; calling it again replaces what it did.

    Args:
        level: name or number.
        apply_to: names of other loggers.
        files: also append to this file.

    Raises:
        ConfigError: no such level.
    """
    levels = logging.getLevelNamesMapping()
    number = levels.get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise ConfigError(f"`level` must be one of {sorted(levels)} or a number, given was {level!r}")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if files is not None:
        Path(files).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(files, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, "%H:%M:%S"))
        setattr(handler, _MARK, True)
    for name in ("agl", *apply_to):
        _replace(logging.getLogger(name), handlers, number)


def _replace(logger: logging.Logger, handlers: Iterable[logging.Handler], level: int) -> None:
    for old in [handler for handler in logger.handlers if hasattr(handler, _MARK)]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def configure_logger(level: int | str = logging.INFO, name: str = "agl") -> logging.Logger:
    """As `setup_logging` for one logger, which it returns."""
    warn_old("`configure_logger` is old: write `agl.setup_logging(level, apply_to=[…])`")
    setup_logging(level, apply_to=[] if name == "agl" else [name])
    return logging.getLogger(name)
