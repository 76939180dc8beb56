"""`--agent` names a program where AGENT names an object."""

import pytest
from click.testing import CliRunner

from agl.cli import cli

DEV = ["dev", "--endpoint", "http://127.0.0.1:1/v1", "--model", "m"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"input": "hi"}\n')

    def invoke(*command):
        done = CliRunner().invoke(cli, [*command, "--data", "tasks.jsonl"])
        assert done.exit_code != 0
        return done.output

    return invoke


def test_one_of_both_is_needed(invoke):
    assert "missing AGENT or --agent" in invoke(*DEV)
    assert "missing AGENT or --agent, --algorithm" in invoke("train")


def test_both_are_two_agents(invoke):
    assert "AGENT (`os:getcwd`) and --agent (`echo 1`) are two agents" in invoke(*DEV, "os:getcwd", "--agent", "echo 1")


def test_a_program_that_is_not_there_is_said_at_once(invoke):
    assert "the program `no-such-program` of the agent `no-such-program` was not found on the PATH" in invoke(
        *DEV, "--agent", "no-such-program"
    )
