"""Environments: what every `tools/setup_….py` shares. uv makes them; one is made again only when what it is made of has changed.

Nothing but the standard library is needed. uv itself is installed from PyPI into a folder beside the environments, where there is none.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = "Scripts" if os.name == "nt" else "bin"
TORCH = "torch>=2.6"
TORCH_CPU_FILE = "torch==2.13.0"
"""Asked for where pip's own find-links folder holds a build of it."""
_STAMP = ".agl-setup"
"""Beside what was made: what it was made of."""


class Environment:
    """A virtual environment, made if it is not there.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.python, self._uv = folder, folder / PLACE / "python", find_uv()
        if not self.python.exists():
            run(self._uv, "venv", "--quiet", "--python", sys.executable, str(folder))

    def install(self, *arguments: str, check: bool = True) -> bool:
        """`uv pip install` with these arguments; whether it went well."""
        return run(self._uv, "pip", "install", "--quiet", "--python", str(self.python), *arguments, check=check)

    def install_torch(self) -> None:
        """torch, as the CPU build where there is no GPU: a local file of it first, then PyTorch's own index, then PyPI's."""
        if shutil.which("nvidia-smi") or platform.system() != "Linux":
            self.install(TORCH)  # other systems' builds on PyPI are for the CPU already
            return
        if any("torch-" in name and "cpu" in name for name in _find_links()) and self.install(TORCH_CPU_FILE, check=False):
            return
        if self.install("--torch-backend", "cpu", TORCH, check=False):
            return
        print("PyTorch's index of CPU builds cannot be reached: taking PyPI's build, which brings CUDA (gigabytes)", file=sys.stderr)
        self.install(TORCH)


Install = Callable[[Environment], None]
"""Puts into an environment what belongs there."""


def make(folder: Path, install: Install, made_of: Iterable[Path], *, about: str = "", anew: bool = False, reuse: bool = True) -> None:
    """Make an environment, if it is not there or what it is made of has changed.

    Args:
        folder: where it is.
        install: fills it.
        made_of: files that say what is in it, the script itself among them.
        about: what else it depends on.
        anew: whether one that has changed is removed first, so that nothing old stays in it.
        reuse: whether one that has not changed is left as it is.
    """
    stamp, wanted = folder / _STAMP, _fingerprint(made_of, about)
    if reuse and stamp.exists() and stamp.read_text() == wanted:
        return
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    install(Environment(folder))
    stamp.write_text(wanted)


def make_named(about: str | None, install: Install, packages: Sequence[str], *others: str) -> None:
    """`make` in the folder that the command line names.

    Args:
        about: the script's docstring.
        packages: of this project that are in it.
        others: further files that it is made of, the script itself among them.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder, install, [*map(pyproject_of, packages), *map(Path, others)])


def pyproject_of(package: str) -> Path:
    """Where it is said what a package of this project, such as `core[report]`, needs."""
    return ROOT / package.partition("[")[0] / "pyproject.toml"


def editable(packages: Iterable[str]) -> list[str]:
    """Arguments that install packages of this project, such as `core[report]`, from their folders."""
    return [item for package in packages for item in ("-e", f"{ROOT}/{package}")]


def groups(*names: str) -> list[str]:
    """Arguments that install dependency groups of the root pyproject."""
    return [argument for name in names for argument in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]


def find_uv() -> str:
    """uv of the PATH, else one installed from PyPI."""
    if found := shutil.which("uv"):
        return found
    folder = ROOT / ".venv-uv"
    uv = folder / PLACE / "uv"
    if not uv.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([uv.with_name("python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(uv)


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


def _find_links() -> list[str]:
    """Names of the files in the folders that pip is told to look into."""
    folders = [Path(item) for item in os.environ.get("PIP_FIND_LINKS", "").split() if "://" not in item]
    return [file.name for folder in folders if folder.is_dir() for file in folder.iterdir()]


def _fingerprint(made_of: Iterable[Path], about: str) -> str:
    digest = hashlib.sha256("".join(file.read_text() for file in (*made_of, Path(__file__))).encode())
    return f"{platform.python_version()} {about} {digest.hexdigest()}\n"
