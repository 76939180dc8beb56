"""The README is what a stranger follows: its example runs, its commands exist, it stays short."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_the_graph_learns(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    [code] = re.findall(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    [(before, after)] = re.findall(r"test reward ([0-9.]+) -> ([0-9.]+)", done.stdout)
    assert float(before) < 0.3
    assert float(after) > 0.7


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) | set(
        re.findall(r"`([a-z-]+)`", README.partition("`make help`")[2])
    )
    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_command_it_names_exists():
    shown = subprocess.run([Path(sys.executable).with_name("agl"), "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    named = set(re.findall(r"`agl ([a-z]+)", README))
    assert named
    assert named <= set(re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE))


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_it_fits_on_two_screens():
    assert len(README.splitlines()) <= 150
