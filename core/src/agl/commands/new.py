"""`agl plugins new`: a package of your own, whose tests pass as generated, from the template in `agl/templates/plugin`."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

import click

import agl
from agl.discovery import GROUP, package_of
from agl.errors import ConfigError

GROUPS = {"framework": GROUP, "reward": "agl.rewards", "store": "agl.stores", "tracker": "agl.trackers", "algorithm": "agl.algorithms"}
"""Kinds of plugins, and the entry-point group of each."""
TEMPLATE = Path(agl.__file__).parent / "templates" / "plugin"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = "agl-"


class Names(NamedTuple):
    """What a new package is called."""

    title: str
    """For sentences: `My Framework`."""
    distribution: str
    """`agl-my-framework`."""
    package: str
    """`agl_my_framework`."""
    name: str
    """Of the entry point: `my_framework`."""
    cls: str
    """`MyFramework`."""


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(list(GROUPS)), default="framework", show_default=True, help="What the package brings.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write, which must not exist; default: ./agl-NAME.")
def new(name: str, kind: str, out: Path | None) -> None:
    """Write the package agl-NAME: plugin, tests that run the kit of its kind, CI file, README. Its tests pass as generated."""
    names = names_of(name, kind)
    folder = out or Path(names.distribution)
    write(names, kind, folder)
    click.echo(f"{folder} holds a plugin of the kind {kind} that works; what to change is marked `fill in`. Next:\n")
    click.echo(f'    cd {folder}\n    pip install -e ".[test]"\n    pytest')


def names_of(name: str, kind: str) -> Names:
    """The names that follow from one: with or without `agl-` before it.

    Raises:
        ConfigError: it cannot name a package, or an installed package has it already.
    """
    short = name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(short):
        close = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-0123456789")
        hint = f"; did you mean `{close}`?" if _NAME.fullmatch(close) else ""
        raise ConfigError(f"`{name}` cannot name a package: small letters, digits and single hyphens, such as `my-{kind}`{hint}")
    distribution, module = f"{_PREFIX}{short}", short.replace("-", "_")
    words = [word.capitalize() for word in short.split("-")]
    _refuse_taken(distribution, module, kind)
    return Names(" ".join(words), distribution, f"agl_{module}", module, "".join(words))


def _refuse_taken(distribution: str, name: str, kind: str) -> None:
    owners = {package_of(entry) for entry in importlib.metadata.entry_points(group=GROUPS[kind], name=name)}
    if any(found.name.lower() == distribution for found in importlib.metadata.distributions(name=distribution)):
        owners.add(distribution)
    if owners:
        raise ConfigError(f"the {kind} `{name}` is there already, from {sorted(owners)}; take another name, or uninstall it first")


def write(names: Names, kind: str, folder: Path) -> None:
    """Write the package into a folder that does not exist, or is empty. Needs no network and no git.

    Raises:
        ConfigError: the folder is there, or copier is not installed.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"`{folder}` is there already and is not overwritten; remove it, or name another folder with `--out`")
    try:
        import copier
    except ImportError as error:
        raise ConfigError("`agl plugins new` needs copier: pip install 'agl-core[new]'") from error
    answers = {**names._asdict(), "kind": kind, "version": agl.__version__}
    for part in ("common", kind):
        copier.run_copy(str(TEMPLATE), folder, data={**answers, "part": part}, defaults=True, overwrite=True, quiet=True)
