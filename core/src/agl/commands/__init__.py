"""Built-in plugin: the commands `agl plugins` and `agl doctor`, added as any plugin adds its own."""

from __future__ import annotations

from typing import Any

from agl.hookspecs import hookimpl


@hookimpl
def agl_register_commands(cli: Any) -> None:
    """Add the commands; what they need is imported when they run."""
    from agl.commands.doctor import doctor
    from agl.commands.plugins import plugins

    cli.add_command(plugins)
    cli.add_command(doctor)
