"""The page on trackers: its script runs, its objects can be made, and it names every tracker of this project."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agl.settings import read_settings
from agl.trackers import make_trackers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trackers.md").read_text()


def block(name):
    [code] = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return code


def test_its_script_runs_and_leaves_what_it_says(tmp_path):
    done = subprocess.run([sys.executable, "-c", block("example")], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["run_started", *["step_ended"] * 3, "evaluated", "run_ended"]
    [events] = tmp_path.glob(".agl/runs/*/tensorboard/events.out.tfevents.*")
    for name in (b"val/reward", b"val/reward_low", b"val/reward_high"):
        assert name in events.read_bytes()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_an_object_of_the_page_can_be_made(name):
    module = pytest.importorskip(name)
    assert module is not None
    import agl

    known = {"agl": agl}
    exec(block(name), known)
    [tracker] = known["trainer"].trackers
    assert tracker.name == name


def test_it_names_every_tracker_and_what_brings_it():
    rows = dict(re.findall(r'^\| `"(\w+)"` \| (.*?) \|', PAGE, re.MULTILINE))
    assert set(rows) == {entry.name for entry in importlib.metadata.entry_points(group="agl.trackers") if entry.value.startswith("agl.")}
    extras = importlib.metadata.metadata("agl-core").get_all("Provides-Extra")
    meta = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in set(rows) - {"jsonl"}:
        assert rows[name] == f'`pip install "agl-core[{name}]"`'
        assert name in extras
        assert meta[name] == [f"agl-core[{name}]~=0.1.0"]


def test_its_settings_are_those_of_agl(tmp_path, monkeypatch):
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "agl.toml").write_text(text.replace("mlflow=http://localhost:5000", "jsonl"))
    monkeypatch.chdir(tmp_path)
    assert [tracker.name for tracker in make_trackers(read_settings().trainer.trackers)] == ["jsonl"]
