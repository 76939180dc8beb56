"""Makes the environment in which one framework's agent is trained: `python tools/setup_framework_bench.py PLUGIN`, into `.venv-PLUGIN-grpo`.

The core, the plugin with the newest frameworks that it supports, and native GRPO. Newest frameworks exclude each other, so each has its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from environments import ROOT, Environment, editable, make, pyproject_of
from setup_plugin import frameworks_of


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", choices=sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")))
    plugin = parser.parse_args().plugin
    packages = ("core", f"plugins/{plugin}", "algorithms/grpo")

    def install(environment: Environment) -> None:
        environment.install_torch()
        environment.install(*frameworks_of(plugin), *editable(packages))

    files = [ROOT / "pyproject.toml", *map(pyproject_of, packages), Path(__file__)]
    make(ROOT / f".venv-{plugin}-grpo", install, files, anew=True)


if __name__ == "__main__":
    main()
