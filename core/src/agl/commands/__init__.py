"""Built-in plugin: the commands beside those of `agl.cli`, such as `agl plugins` and `agl export`, added as any plugin adds its own."""

from __future__ import annotations

from typing import Any

from agl.hookspecs import hookimpl


@hookimpl
def agl_register_commands(cli: Any) -> None:
    """Add the commands; what they need is imported when they run."""
    from agl.commands.doctor import doctor
    from agl.commands.explain import explain, reward
    from agl.commands.export import export, import_
    from agl.commands.plugins import plugins

    cli.add_command(plugins)
    cli.add_command(doctor)
    cli.add_command(explain)
    cli.add_command(reward)
    cli.add_command(export)
    cli.add_command(import_)
