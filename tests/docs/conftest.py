"""Fixtures of the documentation's tests."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

SCRIPTS = {"pip": "-m pip", "pytest": "-m pytest -p no:cacheprovider", "agl": '-c "from agl.cli import main; main()"'}


class Reader:
    """Follows a page: writes its files and runs its commands in a shell, in an environment of its own without network.

    The environment sees what is installed here, and what is installed into it comes first. pip takes no index and no
    dependencies, so that the page's own commands work offline.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._home = folder
        venv.create(folder / "venv", symlinks=True)
        self._bin = folder / "venv" / "bin"
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
        (site / "zz_here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        for name, arguments in SCRIPTS.items():
            (self._bin / name).write_text(f'#!/bin/sh\nexec "{self._bin / "python"}" {arguments} "$@"\n')
            (self._bin / name).chmod(0o755)

    def write(self, name: str, text: str) -> None:
        """A file of the page, in the folder that its commands have gone to."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, commands: str) -> str:
        """What the commands print; where they go to another folder, the next ones start there."""
        place = self._home / "place"
        script = f'set -e\n{commands}\npwd > "{place}"\n'
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        self.folder = Path(place.read_text().strip())
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "PIP_", "AGL_", "OPENAI_"))}
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        # pip reads this one the other way round: 0 switches the isolation off.
        return {**kept, **offline, "PIP_NO_BUILD_ISOLATION": "0", "PATH": f"{self._bin}:{kept['PATH']}", "COLUMNS": "200"}


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path)
