"""`agl doctor`: can what this project asks for work here, and if not, what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agl.commands.stores import store_option


@click.command()
@click.option("--algorithm", help="Also check this algorithm; default: the one of agl.toml.")
@store_option
@click.option("--endpoint", help="Also ask this OpenAI-compatible base URL for its models.")
@click.option("--port", type=int, default=0, show_default=True, help="Port of the gateway; 0 is any free one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def doctor(as_json: bool, **asked: Any) -> None:
    """Check environment, plugins, store, ports and engine. Exit code 1 when something that is asked for cannot work."""
    from agl.doctor import Check, examine

    checks: list[Check] = examine(folder=Path.cwd(), **asked)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(checks)).decode())
    else:
        for check in checks:
            click.echo(f"{check.state:<5} {check.name:<22} {check.found}")
            if check.fix:
                click.echo(f"{'':<5} {'':<22} -> {check.fix}")
    if any(check.state == "fail" for check in checks):
        raise SystemExit(1)
