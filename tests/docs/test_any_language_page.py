"""The page on agents in any language: its programs run, and what it says that a program finds is what one finds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agl.environment import OWN_VARIABLES
from agl.settings import Settings
from agl.testing.scripted import ScriptedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "any-language.md").read_text()
TASK = {"question": "What is 6 times 7?", "answer": "42"}
ENDPOINT = "http://127.0.0.1:8000/v1"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands(word):
    return [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if word in line]


@pytest.fixture
def server():
    with ScriptedServer("It is 42.") as running:
        yield running


@pytest.fixture
def page_reader(reader):
    program, _ = blocks("python")
    reader.write("my_agent.py", program)
    reader.write("my_judged_agent.py", program[: program.index("print(1.0")])
    reader.write("tasks.jsonl", json.dumps(TASK) + "\n")
    reader.write("tasks.py", "def question(task):\n    return task['question']\n")
    return reader


def test_the_first_program_judges_itself(page_reader, server):
    [command] = commands('agl dev --agent "python my_agent.py"')
    told = page_reader.run(command.replace(ENDPOINT, server.base_url()))
    assert "reward 1" in told
    assert "reward reward = 1 (from agent)" in told
    assert server.requests[0].body["messages"][0]["content"] == TASK["question"]


def test_the_second_one_is_judged_from_outside(page_reader, server):
    _, code = blocks("python")
    page_reader.write("try_it.py", code.replace(ENDPOINT, server.base_url()))
    told = page_reader.run("python try_it.py")
    assert "reward reward = 1 (from returned)" in told


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_shell_script_posts_a_reward_and_ends_with_another(page_reader, server):
    [script] = blocks("sh")
    page_reader.write("agent.sh", script)
    [command] = commands("sh agent.sh")
    told = page_reader.run(command.replace(ENDPOINT, server.base_url()))
    assert "reward answered = 1 (from agent)" in told
    assert "reward reward = 1 (from agent)" in told


def test_every_command_has_the_options_that_it_is_given():
    from agl.cli import cli
    from agl.commands import agl_register_commands

    agl_register_commands(cli)
    named = commands("agl ")
    assert len(named) == 7
    for line in named:
        words = line.split()
        command = cli.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert [word for word in words[2:] if word.startswith("--") and word not in known] == [], line


def test_the_table_names_every_variable_that_is_set():
    table = PAGE[PAGE.index("## What the program is given") : PAGE.index("## How it gives its reward")]
    hidden = {"OPENAI_API_BASE", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_PROTOCOL"}  # an old name; told by their endings
    assert [name for name in sorted(OWN_VARIABLES - hidden) if f"`{name}`" not in table] == []


def test_its_settings_are_settings():
    [text] = blocks("toml")
    assert msgspec.toml.decode(text.encode(), type=Settings).trainer.agent_rewards == "refuse"


def test_the_files_of_the_node_example_are_there():
    folder = ROOT / "examples" / "node_agent"
    for line in commands('agl dev --agent "node'):
        assert (folder / re.search(r'"node (\S+)"', line)[1]).exists()
    for spec in re.findall(r"judge:(\w+)", PAGE):
        code = f"import judge; judge.{spec}"
        assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0
