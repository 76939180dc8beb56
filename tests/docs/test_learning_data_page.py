"""The page on learning data: its code runs, and its tables have what there is."""

import re
from pathlib import Path

import agl
from agl.calltree import Mismatch
from agl.credit import NAMES, OPTIONS
from agl.rollouts import POLICIES, Failure

PAGE = (Path(__file__).parents[2] / "docs" / "learning-data.md").read_text()

ROOT = Path(__file__).parents[2]


def test_every_case_of_the_design_has_its_test():
    table = (ROOT / "docs" / "design" / "0005-learning-data.md").read_text().partition("## The cases")[2]
    rows = re.findall(r"^\| [^|]+ \| `(test_\w+)`(?: in `([\w/]+)`)? \|$", table, re.MULTILINE)
    assert len(rows) == len([line for line in table.splitlines() if line.startswith("| ")]) - 1 > 30
    tests = {
        place: "".join(file.read_text() for file in (ROOT / place).glob("test_*.py")) for place in {row[1] or "tests/core" for row in rows}
    }
    assert [name for name, place in rows if f"def {name}(" not in tests[place or "tests/core"]] == []


def test_its_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(compile(block, "docs/learning-data.md", "exec"), names)
    assert isinstance(names["trainer"], agl.Trainer)


def test_its_tables_have_every_class_every_credit_and_every_option():
    first = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {*Mismatch, *NAMES, *(set(Failure) - {Failure.REWARD})} == set(first)
    assert [option for option in OPTIONS if f"`{option}`" not in PAGE] == []


def test_its_defaults_are_those_of_the_code():
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {name: told[name] for name in told if name in set(Failure)} == {str(k): v for k, v in POLICIES.items() if k != Failure.REWARD}
