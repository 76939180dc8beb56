"""Makes an environment with VERL in it, for the comparison of numerics: `python tools/setup_verl.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run

VERL = "verl==0.9.1"


def main() -> None:
    """Make the environment, if it is not there."""
    folder = Path(sys.argv[1])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".agl-setup"
    if stamp.exists():
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, python)
    tests = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        VERL,
        *tests,
        "-e",
        str(ROOT / "core"),
        "-e",
        str(ROOT / "algorithms" / "grpo"),
    )
    stamp.write_text("done\n")


if __name__ == "__main__":
    main()
