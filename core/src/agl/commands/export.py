"""`agl export` and `agl import`: runs as files that others read, and files of others as runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agl.commands.stores import existing_store, store_of, store_option

NAMES = (
    "parquet",
    "arrow",
    "hf",
    "trl-sft",
    "trl-prompt-completion",
    "trl-grpo",
    "trl-dpo",
    "trl-kto",
    "openai-jsonl",
)
"""Of `agl.export.FORMATS`, which `agl --help` must not import."""

_split = click.Choice(["train", "val", "test"])


@click.command()
@click.argument("run")
@click.option("--otlp", metavar="URL", help="Send the run's spans to an OTLP receiver instead: Langfuse, Phoenix, MLflow, Jaeger.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="For --otlp; default: those of OTEL_EXPORTER_OTLP_HEADERS.")
@click.option("--to", type=click.Choice(NAMES), help="Format of the file; docs/transition-schema.md describes them.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write (for hf a folder); default: RUN.FORMAT with the format's suffix."
)
@click.option("--split", type=_split, help="Only rollouts of this mode; default: all.")
@click.option("--best", is_flag=True, help="Only the rollout with the highest reward of each group.")
@click.option("--min-reward", type=float, help="Only rollouts with at least this reward.")
@click.option("--late", is_flag=True, help="Only rollouts with a reward that came too late for the run to learn from.")
@click.option("--label-at", type=float, help="For trl-kto: answers with at least this reward are good.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@store_option
@click.pass_context
def export(
    context: click.Context,
    run: str,
    to: str | None,
    out: Path | None,
    store: str | None,
    otlp: str | None,
    headers: tuple[str, ...],
    **options: Any,
) -> None:
    """Write RUN as a file that others read: standard transitions, datasets, fine-tuning examples. Or send its spans on: `--otlp URL`."""
    if otlp is not None:
        given = [name for name, value in {"to": to, "out": out, **options}.items() if value is not None and value is not False]
        if given:
            raise click.UsageError(f"--otlp sends spans, without --{' and --'.join(name.replace('_', '-') for name in given)}")
        _send(store, run, otlp, headers)
        return
    if headers:
        raise click.UsageError("--header is for --otlp")
    from agl.console import Console
    from agl.export import FORMATS, export_run

    if to is None:
        known = "".join(f"\n  {name:<22} {found.about}" for name, found in FORMATS.items())
        raise click.UsageError(f"missing --to (or --otlp URL), one of{known}")
    out = out or Path(f"{run}.{to}{FORMATS[to].suffixes[0]}" if to not in ("parquet", "arrow") else f"{run}.{to}")
    done = export_run(existing_store(store), run, to, out, plugins=context.obj, console=Console(), **options)
    click.echo(done.summary())


def _send(store: str | None, run: str, endpoint: str, headers: tuple[str, ...]) -> None:
    import asyncio
    import os

    from agl.otlp import export_otlp
    from agl.otlp.sending import HEADERS_VARIABLE, headers_from, parse_headers
    from agl.store.opening import opened

    given = parse_headers(headers) if headers else headers_from(os.environ.get(HEADERS_VARIABLE, ""))
    with opened(existing_store(store)) as found:
        sent = asyncio.run(export_otlp(found, run, endpoint, given))
    click.echo(f"{sent} spans sent")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--run", help="Id of the new run; default: the one in the file, else a fresh one.")
@click.option("--split", type=_split, help="Mode of the rollouts, for files that do not tell; default: train.")
@click.option("--weights-version", help="Version of the weights that sampled, for files that do not tell: without it no answer is trained.")
@store_option
def import_(file: Path, run: str | None, store: str | None, **options: Any) -> None:
    """Make a run of FILE: what `agl export` wrote, examples of TRL or OpenAI, or training traces of OpenEnv."""
    from agl.console import Console
    from agl.export import import_file

    done = import_file(store_of(store), file, run_id=run, console=Console(), **options)
    click.echo(done.summary())
