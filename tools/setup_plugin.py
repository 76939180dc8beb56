"""Makes the environment of one plugin's tests: `python tools/setup_plugin.py PLUGIN [--oldest|--canary|--bench]`, into `.venv-PLUGIN[-…]`.

Newest frameworks exclude each other, so that each plugin has an environment of its own: the core, `agl-apo`, the plugin, the
frameworks that its extra `instruments` names, the dependency group `test-PLUGIN` of the root pyproject where there is one,
and pytest. `PLUGIN-and-PLUGIN` makes one for plugins that can live together.

    --oldest    the lowest versions of the frameworks that the extra and the group allow
    --canary    the newest that there are today, whatever the upper bounds say; made anew each time
    --bench     the newest supported ones, with the dependency group `bench-PLUGIN`
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from environments import ROOT, Environment, editable, groups, make, pyproject_of

KINDS = ("oldest", "canary", "bench")
GROUP = "test-plugins"
"""What every plugin's tests need."""


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin")
    kinds = parser.add_mutually_exclusive_group()
    for kind in KINDS:
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, default="")
    options = parser.parse_args()
    plugins, known = options.plugin.split("-and-"), sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
    if unknown := [plugin for plugin in plugins if plugin not in known]:
        parser.error(f"there is no plugin {unknown}; there are {known}, and any of them joined by `-and-`")
    packages = ("core", "algorithms/apo", *(f"plugins/{plugin}" for plugin in plugins))
    files = [ROOT / "pyproject.toml", *map(pyproject_of, packages), Path(__file__)]
    fill = functools.partial(install, plugins, options.kind)
    make(folder_of(options.plugin, options.kind), fill, files, anew=True, reuse=options.kind != "canary")


def folder_of(name: str, kind: str = "") -> Path:
    """Where an environment is."""
    return ROOT / f".venv-{name}{f'-{kind}' if kind else ''}"


def install(plugins: list[str], kind: str, environment: Environment) -> None:
    """The core, the plugins, their frameworks and pytest."""
    frameworks = [requirement for plugin in plugins for requirement in frameworks_of(plugin, kind)]
    if kind == "oldest":
        # By themselves first: what AGL and the tests need is taken in versions that fit to them.
        environment.install("--resolution", "lowest-direct", *frameworks)
        frameworks = [f"{name}=={version}" for name, version in installed(environment.folder, frameworks)]
    with tempfile.TemporaryDirectory() as copies:
        sources = [unbounded(plugin, Path(copies)) if kind == "canary" else ROOT / "plugins" / plugin for plugin in plugins]
        own = [argument for source in sources for argument in (*([] if kind == "canary" else ["-e"]), str(source))]
        environment.install(*frameworks, *groups(GROUP), *editable(("core", "algorithms/apo")), *own)


def frameworks_of(plugin: str, kind: str = "") -> list[str]:
    """Requirements of the extra `instruments` and of the plugin's dependency groups."""
    project = read(ROOT / "plugins" / plugin / "pyproject.toml")["project"]
    known = read(ROOT / "pyproject.toml").get("dependency-groups", {})
    own = [*known.get(f"test-{plugin}", []), *(known[f"bench-{plugin}"] if kind == "bench" else [])]
    found = [*project["optional-dependencies"]["instruments"], *own]
    return [without_upper_bound(requirement) for requirement in found] if kind == "canary" else found


def unbounded(plugin: str, folder: Path) -> Path:
    """A copy of a plugin that says it supports any newer version: AGL loads no plugin outside of its range."""
    copied = shutil.copytree(ROOT / "plugins" / plugin, folder / plugin)
    about = (copied / "pyproject.toml").read_text()
    for requirement in read(copied / "pyproject.toml")["project"]["optional-dependencies"]["instruments"]:
        about = about.replace(f'"{requirement}"', f'"{without_upper_bound(requirement)}"')
    (copied / "pyproject.toml").write_text(about)
    return copied


def without_upper_bound(requirement: str) -> str:
    """`crewai>=1.15,<1.16` -> `crewai>=1.15`."""
    name = re.split(r"[<>=!~ ]", requirement, maxsplit=1)[0]
    bounds = [bound.strip() for bound in requirement.removeprefix(name).split(",")]
    return name + ",".join(bound for bound in bounds if bound.startswith((">", "!=")))


def installed(folder: Path, requirements: list[str]) -> list[tuple[str, str]]:
    """Names and versions of the packages that the requirements name, as they are in an environment."""
    names = {_plain(_name(requirement)): _name(requirement) for requirement in requirements}
    found: list[tuple[str, str]] = []
    for info in folder.glob("lib/python*/site-packages/*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        if _plain(name) in names:
            found.append((name, version))
    return found


def read(path: Path) -> dict[str, Any]:
    """A TOML file."""
    return tomllib.loads(path.read_text())


def _name(requirement: str) -> str:
    end = next((index for index, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), len(requirement))
    return requirement[:end]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main()
