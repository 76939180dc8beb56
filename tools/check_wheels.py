"""Installs the project's own wheels the ways a user would, outside the workspace: `python tools/check_wheels.py [FOLDER]`.

Builds every wheel, then checks, each in a fresh environment: the lone core; a plugin with its framework, without it, and
beside a plugin that raises when it is imported; the meta distribution's extras. Needs PyPI. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from environments import ROOT, find_uv, run

FOLDERS = [*sorted(ROOT.glob("plugins/*")), *sorted(ROOT.glob("algorithms/*")), *sorted(ROOT.glob("executors/*"))]
PACKAGES = ("core", *(str(path.relative_to(ROOT)) for path in FOLDERS), ".")
BROKEN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "agl-broken"
version = "1.0"
[project.entry-points.agl]
broken = "agl_broken"
[tool.hatch.build.targets.wheel]
only-include = ["agl_broken.py"]
""",
    "agl_broken.py": "raise RuntimeError('a plugin that cannot be imported')\n",
}


class Environment:
    """A fresh virtual environment that takes this project's packages from a folder of wheels."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder, self.wheels, self.uv = folder, wheels, find_uv()
        run(self.uv, "venv", "--quiet", "--python", sys.executable, str(folder))

    def pip(self, *arguments: str) -> None:
        """`pip install …` or another of its commands."""
        command, *rest = arguments
        python = ("--python", str(self.folder / "bin" / "python"))
        links = ("--find-links", str(self.wheels)) if command == "install" else ()
        run(self.uv, "pip", command, "--quiet", *python, *links, *rest)

    def agl(self, *arguments: str, expected: int = 0) -> str:
        """Output of the `agl` command; its exit code must be the expected one."""
        done = subprocess.run(
            [self.folder / "bin" / "agl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False, env=clean()
        )
        assert done.returncode == expected, f"agl {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def plugins(self) -> dict[str, dict[str, object]]:
        """What `agl plugins` tells, by name."""
        return {row["name"]: row for row in json.loads(self.agl("plugins", "--json"))["plugins"]}

    def installed(self) -> set[str]:
        """Names of the installed distributions."""
        command = [self.uv, "pip", "list", "--quiet", "--format", "json", "--python", str(self.folder / "bin" / "python")]
        return {item["name"] for item in json.loads(subprocess.check_output(command))}


def main() -> None:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where wheels and environments are made; default: a temporary folder")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        wheels = build(folder / "wheels")
        figures = {"wheels": len(list(wheels.glob("agl*.whl")))}
        figures |= lone_core(Environment(folder / "core", wheels))
        figures |= plugin(Environment(folder / "plugin", wheels), folder)
        figures |= extras(Environment(folder / "extras", wheels))
    print(json.dumps({**figures, "seconds": round(time.monotonic() - begun, 1)}), flush=True)


def build(wheels: Path) -> Path:
    """Wheels of all packages."""
    for package in PACKAGES:
        run(find_uv(), "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(ROOT / package))
    return wheels


def lone_core(environment: Environment) -> dict[str, object]:
    """The core alone brings its own plugins, no framework and no torch."""
    environment.pip("install", "agl-core")
    installed = environment.installed()
    heavy = {"torch", "langgraph", "langchain-core", "openai", "transformers", "pydantic"} & installed
    assert not heavy, heavy
    assert all(row["state"] == "ok" and row["package"] == "agl-core" for row in environment.plugins().values())
    environment.agl("doctor")
    say(f"agl-core alone: {len(installed)} packages")
    return {"core_packages": len(installed)}


def plugin(environment: Environment, folder: Path) -> dict[str, object]:
    """A plugin is found; without its framework it is unsupported; a broken one beside it breaks nothing."""
    environment.pip("install", "agl-langgraph[instruments]")
    found = environment.plugins()["langgraph"]
    assert found["state"] == "ok", found
    say(f"agl-langgraph: ok with {found['frameworks']}")
    environment.pip("uninstall", "langgraph")
    found = environment.plugins()["langgraph"]
    assert found["state"] == "unsupported", found
    assert "needs langgraph" in str(found["reason"]), found
    environment.agl("doctor")
    say(f"without its framework: unsupported, {found['reason']}")
    package = folder / "broken"
    package.mkdir()
    for name, text in BROKEN.items():
        (package / name).write_text(text)
    environment.pip("install", str(package))
    told = environment.agl("doctor", expected=1)
    assert "plugin broken" in told, told
    states = {name: row["state"] for name, row in environment.plugins().items()}
    assert states == {**dict.fromkeys(states, "ok"), "langgraph": "unsupported", "broken": "failed"}, states
    say("beside a plugin that cannot be imported: everything else works, `agl doctor` exits with 1 and names it")
    return {"plugin_states": states}


def extras(environment: Environment) -> dict[str, object]:
    """`agl[langgraph]` and `agl-langgraph` bring the same."""
    environment.pip("install", "agl[langgraph]")
    by_extra = {name for name in environment.installed() if name.startswith("agl")}
    assert by_extra == {"agl", "agl-core", "agl-langgraph"}, by_extra
    environment.pip("uninstall", *by_extra)
    environment.pip("install", "agl-langgraph")
    by_name = {name for name in environment.installed() if name.startswith("agl")}
    assert by_name == {"agl-core", "agl-langgraph"}, by_name
    say(f"agl[langgraph] brings {sorted(by_extra)}, agl-langgraph brings {sorted(by_name)}")
    return {"extra": sorted(by_extra), "alone": sorted(by_name)}


def clean() -> dict[str, str]:
    """The process's variables without those that would lead back into the workspace."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AGL_", "PYTHON"))}


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
