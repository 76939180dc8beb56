"""Makes an environment with VERL and Ray in it, for the tests of `agl-verl` on a CPU: `python tools/setup_verl.py FOLDER`.

VERL runs on Python 3.10 to 3.12.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run

TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "langchain-openai>=1.1")
PACKAGES = ("core[report]", "plugins/langgraph[instruments]", "algorithms/grpo", "algorithms/verl[verl]", "executors/ray")


def main() -> None:
    """Make the environment, if it is not there or its packages ask for something else."""
    folder = Path(sys.argv[1])
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        raise SystemExit(f"VERL and AGL together need Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.12")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp, wanted = folder / ".agl-setup", (ROOT / "algorithms" / "verl" / "pyproject.toml").read_text() + Path(__file__).read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, python)
    editable = [item for package in PACKAGES for item in ("-e", f"{ROOT}/{package}")]
    run(uv, "pip", "install", "--quiet", "--python", str(python), *TESTS, *editable)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
