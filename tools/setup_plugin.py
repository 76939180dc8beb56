"""Makes the environment of one plugin's tests: `python tools/setup_plugin.py PLUGIN [--oldest]`, into `.venv-PLUGIN[-oldest]`.

Newest frameworks exclude each other, so that each plugin has an environment of its own: the core, the plugin, the
frameworks that its extra `instruments` names, the dependency group `test-PLUGIN` of the root pyproject where there is one,
and pytest. With `--oldest` the frameworks come in the lowest versions that the extra and the group allow.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from setup import ROOT, find_uv, run

GROUP = "test-plugins"
"""What every plugin's tests need."""


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    plugins = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plugin", choices=plugins)
    parser.add_argument("--oldest", action="store_true", help="the lowest versions of the frameworks that the plugin supports")
    options = parser.parse_args()
    folder = ROOT / f".venv-{options.plugin}{'-oldest' if options.oldest else ''}"
    stamp, wanted = folder / ".agl-setup", fingerprint(options.plugin)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install = (uv, "pip", "install", "--quiet", "--python", str(folder))
    frameworks = frameworks_of(options.plugin)
    if options.oldest:
        # By themselves first: what AGL and the tests need is taken in versions that fit to them.
        run(*install, "--resolution", "lowest-direct", *frameworks)
        frameworks = [f"{name}=={version}" for name, version in installed(folder, frameworks)]
    run(*install, *frameworks, *groups(GROUP), "-e", str(ROOT / "core"), "-e", str(ROOT / "plugins" / options.plugin))
    stamp.write_text(wanted)


def frameworks_of(plugin: str) -> list[str]:
    """Requirements of the extra `instruments` and of the plugin's dependency group."""
    project = read(ROOT / "plugins" / plugin / "pyproject.toml")["project"]
    own = read(ROOT / "pyproject.toml").get("dependency-groups", {}).get(f"test-{plugin}", [])
    return [*project["optional-dependencies"]["instruments"], *own]


def groups(*names: str) -> list[str]:
    """Arguments that install dependency groups of the root pyproject."""
    return [argument for name in names for argument in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


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


def fingerprint(plugin: str) -> str:
    """What the environment depends on: made again when it changes."""
    files = (ROOT / "pyproject.toml", ROOT / "core" / "pyproject.toml", ROOT / "plugins" / plugin / "pyproject.toml", Path(__file__))
    return f"{platform.python_version()} {hashlib.sha256(''.join(file.read_text() for file in files).encode()).hexdigest()}\n"


def _name(requirement: str) -> str:
    end = next((index for index, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), len(requirement))
    return requirement[:end]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main()
