"""Makes an environment for the example algorithm and the SQL agent that it trains: `python tools/setup_best_of_n.py FOLDER`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run

PACKAGES = ("core", "plugins/langgraph", "algorithms/grpo", "examples/plugins/agl-best-of-n")


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    folder = Path(sys.argv[1])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".agl-setup"
    files = (*(ROOT / package / "pyproject.toml" for package in PACKAGES), Path(__file__))
    wanted = hashlib.sha256("".join(file.read_text() for file in files).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, python)
    *inner, plugin = [str(ROOT / package) for package in PACKAGES]
    editable = [item for package in (*inner, f"{plugin}[sql-agent,test]") for item in ("-e", package)]
    run(uv, "pip", "install", "--quiet", "--python", str(python), *editable)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
