"""Plugin of agl-apo: the command `agl apply`."""

from __future__ import annotations

from typing import Any

from agl.hookspecs import hookimpl


@hookimpl
def agl_register_commands(cli: Any) -> None:
    """Add `agl apply`."""
    from agl_apo.apply import apply

    cli.add_command(apply)
