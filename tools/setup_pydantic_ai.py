"""Makes an environment with the newest Pydantic AI in it, for the example plugin's tests: `python tools/setup_pydantic_ai.py FOLDER`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from setup import ROOT, find_uv, run

PLUGIN = ROOT / "examples" / "plugins" / "agl-pydantic-ai"


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed."""
    folder = Path(sys.argv[1])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".agl-setup"
    files = (PLUGIN / "pyproject.toml", ROOT / "core" / "pyproject.toml", Path(__file__))
    wanted = hashlib.sha256("".join(file.read_text() for file in files).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    run(uv, "pip", "install", "--quiet", "--python", str(python), "-e", str(ROOT / "core"), "-e", f"{PLUGIN}[test]")
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
