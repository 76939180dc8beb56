"""The page on where agents run: its script runs, and it names every executor of this project."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from agl.testing.scripted import ScriptedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "executors.md").read_text()


def test_its_script_runs(tmp_path):
    code = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.DOTALL)[0]
    with ScriptedServer("it is 2") as server:
        (tmp_path / "script.py").write_text(code.replace("http://127.0.0.1:8000/v1", server.base_url()))
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["1.0"], 0), done.stderr


def test_it_names_every_executor():
    named = set(re.findall(r'^\| `"(\w+)"`', PAGE, re.MULTILINE))
    others = tomllib.loads((ROOT / "executors" / "ray" / "pyproject.toml").read_text())["project"]["entry-points"]["agl.executors"]
    assert named == {entry.name for entry in importlib.metadata.entry_points(group="agl.executors")} | set(others)
