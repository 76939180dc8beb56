"""The page for users of Agent Lightning is run from its first block to its last; its tables tell the truth."""

import re
import subprocess
import sys
from pathlib import Path

from agl import compat
from agl.testing.scripted import ScriptedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrate.md").read_text()
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```python\n(?P<text>.*?)```", re.DOTALL)


def answer(body):
    asked = body["messages"][-1]["content"]
    if body["model"] == "judge-model":
        return "1" if "42 is right" in asked else "0"
    return {"Answer: ": "no", "Think, t": "42"}.get(asked[:8], "42 is right")


def test_every_block_runs_in_the_order_of_the_page(tmp_path):
    blocks = [(match["file"], match["text"]) for match in BLOCK.finditer(PAGE)]
    for name, text in blocks:
        if name:
            (tmp_path / name).write_text(text)
    with ScriptedServer(answer) as server:
        code = "\n".join(text for name, text in blocks if not name).replace("http://127.0.0.1:8000/v1", server.base_url())
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in blocks] == [None, None, None, None, "calc_agent.py"]
    assert {call.body["model"] for call in server.requests} == {"my-model", "judge-model"}


def test_what_is_not_here_stands_under_not_here():
    [gone] = re.findall(r"\nNot here:\n(.*?)\n## ", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in gone.splitlines() if "|" in row))) == set(compat.GONE)
    [brought] = re.findall(r"\nIn packages of their own:\n(.*?)\nNot here", PAGE, re.DOTALL)
    assert set(re.findall(r"\n\| `(\w+)`", brought)) == {*compat.BROUGHT, *compat.COMING}


def test_what_means_the_same_stands_above():
    same = PAGE.partition("Same name, same meaning:")[2].partition("Same name, another")[0]
    assert [name for name in compat.HOME if f"`{name}`" not in same] == []
