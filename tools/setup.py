"""Makes an environment with the workspace's packages in it: `python tools/setup.py FOLDER [--group dev]`.

Nothing but the standard library is needed to run it. torch comes as the CPU build where the machine has no NVIDIA GPU: the CUDA build is
gigabytes of what nothing there can use.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from environments import ROOT, Environment, editable, groups, make

PACKAGES = (
    "core[report,uvloop]",
    "plugins/langgraph[instruments]",
    "algorithms/grpo[lora]",
    "algorithms/apo",
    "algorithms/gepa",
    "algorithms/verl",
    ".",
)


def main() -> None:
    """Make or refresh the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--group", action="append", default=[], help="dependency group of the root pyproject to install too")
    options = parser.parse_args()
    if sys.version_info < (3, 11):
        raise SystemExit(f"AGL needs Python 3.11 or newer, this is {platform.python_version()}: make PYTHON=python3.12")

    def install(environment: Environment) -> None:
        environment.install_torch()
        environment.install(*editable(PACKAGES), "langchain-openai>=1.1", *groups(*options.group))

    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/pyproject.toml")), *sorted(ROOT.glob("*/*/pyproject.toml")), Path(__file__)]
    make(options.folder, install, files, about=str(sorted(options.group)))


if __name__ == "__main__":
    main()
