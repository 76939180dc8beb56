"""`agl plugins`: what is installed, what became of it, and which hooks it implements."""

from __future__ import annotations

import traceback
from typing import Any

import click

from agl.commands.new import new


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option("--hooks", is_flag=True, help="Every hook with its implementations in call order.")
@click.option("--traceback", "show_traceback", is_flag=True, help="Why a plugin failed, in full.")
@click.pass_context
def plugins(context: click.Context, as_json: bool, hooks: bool, show_traceback: bool) -> None:
    """List plugins and drivers, and what became of them."""
    given = {"--json": as_json, "--hooks": hooks, "--traceback": show_traceback}
    named = [name for name, value in given.items() if value]
    if context.invoked_subcommand is not None:
        if named:
            raise click.UsageError(f"{', '.join(named)} are for the list of plugins, not for `{context.invoked_subcommand}`")
        return
    if show_traceback and len(named) > 1:
        raise click.UsageError(f"--traceback has no effect beside {', '.join(named[:-1])}, which show no errors; leave one out")
    from agl.plugins import Plugins

    loaded = context.find_object(Plugins) or Plugins()
    if as_json:
        import json

        click.echo(json.dumps(_hooks(loaded) if hooks else _everything(loaded), indent=2))
        return
    if hooks:
        _print_hooks(loaded)
        return
    _print(_plugins_table(loaded))
    _print(_drivers_table())
    _reasons(loaded, show_traceback)


plugins.add_command(new)


def _everything(loaded: Any) -> dict[str, Any]:
    import msgspec

    from agl.discovery import PluginRow

    brought = _drivers()
    rows: list[PluginRow] = loaded.rows
    listed = [
        {**msgspec.to_builtins(row), "drivers": [f"{item['group']}:{item['name']}" for item in brought if item["package"] == row.package]}
        for row in rows
    ]
    return {"plugins": listed, "drivers": brought}


def _drivers() -> list[dict[str, str]]:
    """Every driver with its package, read from metadata."""
    from agl.discovery import package_of
    from agl.registry import GROUPS, drivers

    found: list[dict[str, str]] = []
    for group in GROUPS:
        for name, entries in drivers(group).items():
            for entry in entries:
                about = {"package": package_of(entry), "version": entry.dist.version if entry.dist else "?"}
                found.append({"group": group, "name": name, **about, "state": "ok" if len(entries) == 1 else "clash"})
    return found


def _hooks(loaded: Any) -> list[dict[str, Any]]:
    import msgspec

    from agl.hookspecs import SPECS

    called = loaded.implementations()
    return [{**msgspec.to_builtins(spec), "implementations": called[name]} for name, spec in SPECS.items()]


def _plugins_table(loaded: Any) -> Any:
    table = _table("plugin", "package", "version", "state", "framework", "hooks", "ms")
    for row in loaded.rows:
        frameworks = "\n".join(f"{name} {version or 'missing'}" for name, version in row.frameworks.items())
        hooks = "\n".join(hook.removeprefix("agl_") for hook in row.hooks)
        took = "" if row.seconds is None else f"{row.seconds * 1000:.0f}"
        table.add_row(row.name, row.package, row.version, row.state, frameworks, hooks, took)
    return table


def _drivers_table() -> Any:
    table = _table("driver", "name", "package", "version", "state")
    for item in _drivers():
        table.add_row(item["group"].removeprefix("agl.").rstrip("s"), item["name"], item["package"], item["version"], item["state"])
    return table


def _print_hooks(loaded: Any) -> None:
    for item in _hooks(loaded):
        kind = ", ".join(
            [item["policy"], *(["first result"] if item["first_result"] else []), *(["may be async"] if item["may_be_async"] else [])]
        )
        click.echo(f"{item['name']}({', '.join(item['arguments'])})  {kind}; {item['runs']}")
        for number, name in enumerate(item["implementations"], 1):
            click.echo(f"    {number}. {name}")


def _reasons(loaded: Any, show_traceback: bool) -> None:
    for row in loaded.rows:
        if row.reason:
            click.echo(f"{row.name} ({row.package}) is {row.state}: {row.reason}")
        error = loaded.errors.get(f"{row.package}:{row.name}")
        if show_traceback and error is not None:
            click.echo("".join(traceback.format_exception(error)))


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != "framework", justify="right" if column == "ms" else "left")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=False).print(table, markup=False)
    click.echo()
