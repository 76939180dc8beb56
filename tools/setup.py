"""Makes an environment with the workspace's packages in it: `python tools/setup.py FOLDER [--group dev]`.

Nothing but the standard library is needed to run it. uv does the work, itself installed from PyPI into a folder beside
the environment. torch comes as the CPU build where the machine has no NVIDIA GPU: the CUDA build is gigabytes of what
nothing there can use.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch>=2.6"
TORCH_CPU_FILE = "torch==2.13.0"
"""Asked for where pip's own find-links folder holds a build of it."""
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
    stamp, wanted = options.folder / ".agl-setup", fingerprint(options.group)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = find_uv()
    python = options.folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, str(options.folder))
    install_torch(uv, python)
    editable = [item for package in PACKAGES for item in ("-e", f"{ROOT / package.partition('[')[0]}{''.join(package.partition('[')[1:])}")]
    groups = [item for group in options.group for item in ("--group", f"{ROOT / 'pyproject.toml'}:{group}")]
    run(uv, "pip", "install", "--quiet", "--python", str(python), *editable, "langchain-openai>=1.1", *groups)
    stamp.write_text(wanted)


def find_uv() -> str:
    """uv of the PATH, else one installed from PyPI."""
    if found := shutil.which("uv"):
        return found
    folder = ROOT / ".venv-uv"
    uv = folder / ("Scripts" if os.name == "nt" else "bin") / "uv"
    if not uv.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([uv.with_name("python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(uv)


def install_torch(uv: str, python: Path) -> None:
    """torch, as the CPU build where there is no GPU: a local file of it first, then PyTorch's own index, then PyPI's."""
    install = (uv, "pip", "install", "--quiet", "--python", str(python))
    if shutil.which("nvidia-smi") or platform.system() != "Linux":
        run(*install, TORCH)  # other systems' builds on PyPI are for the CPU already
        return
    if any("torch-" in name and "cpu" in name for name in find_links()) and run(*install, TORCH_CPU_FILE, check=False):
        return
    if run(*install, "--torch-backend", "cpu", TORCH, check=False):
        return
    print("PyTorch's index of CPU builds cannot be reached: taking PyPI's build, which brings CUDA (gigabytes)", file=sys.stderr)
    run(*install, TORCH)


def find_links() -> list[str]:
    """Names of the files in the folders that pip is told to look into."""
    folders = [Path(item) for item in os.environ.get("PIP_FIND_LINKS", "").split() if "://" not in item]
    return [file.name for folder in folders if folder.is_dir() for file in folder.iterdir()]


def run(*command: str, check: bool = True) -> bool:
    """Run a command with uv's settings taken from pip's; whether it went well."""
    environment = {"UV_PYTHON_DOWNLOADS": "never", **os.environ}
    if "PIP_FIND_LINKS" in os.environ:
        environment.setdefault("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"])
    # A local build need not be of the newest version that an index has.
    done = subprocess.run(command, env=environment, check=False, stderr=None if check else subprocess.DEVNULL)
    if check and done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return done.returncode == 0


def fingerprint(groups: list[str]) -> str:
    """What the environment depends on: made again when it changes."""
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/pyproject.toml")), *sorted(ROOT.glob("*/*/pyproject.toml")), Path(__file__)]
    digest = hashlib.sha256("".join(file.read_text() for file in files).encode())
    return f"{platform.python_version()} {sorted(groups)} {digest.hexdigest()}\n"


if __name__ == "__main__":
    main()
