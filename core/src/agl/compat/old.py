"""How code of Agent Lightning is told what its words mean here."""

from __future__ import annotations

import sys
import warnings


def warn_old(text: str) -> None:
    """A DeprecationWarning at the line of the user's code, however deep in AGL it is said."""
    frame, level = sys._getframe(1), 2  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "agl":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, DeprecationWarning, stacklevel=level)
