"""The page on stores: its database can be made as it says, and its script and commands work there."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agl.testing.scripted import ScriptedServer

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "postgresql"))
from postgresql_server import Server, needed_programs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "stores.md").read_text()
URL = "postgresql://agl_runs@db.example.com:5432/runs"


@pytest.fixture
def server():
    started = Server(needed_programs())
    yield started
    started.remove()


def test_its_script_runs_on_its_database(server, tmp_path):
    [sql] = re.findall(r"<!-- database -->\n```sql\n(.*?)```", PAGE, re.DOTALL)
    for statement in sql.split(";")[:-1]:
        server.execute(statement)
    [code] = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert URL in code
    url, environment = f"postgresql://agl_runs@127.0.0.1:{server.port}/runs", {**os.environ, "PGPASSWORD": "choose one"}

    def python(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ScriptedServer("it is 2") as model:
        (tmp_path / "script.py").write_text(code.replace("http://127.0.0.1:8000/v1", model.base_url()).replace(URL, url))
        assert python("script.py").splitlines()[-1] == "1.0"
    assert " done " in python("-c", "from agl.cli import main; main()", "runs", "--store", url)


def test_what_it_says_to_install_exists():
    [extra] = re.findall(r'pip install "agl-core\[(\w+)\]"', PAGE)
    assert extra in importlib.metadata.metadata("agl-core").get_all("Provides-Extra")
    assert extra in {entry.name for entry in importlib.metadata.entry_points(group="agl.stores")}
