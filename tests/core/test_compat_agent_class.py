"""A class of Agent Lightning 1.0 runs unchanged in a process of its own: its variables, its reward, its failures."""

import json

import pytest

import agl
from agl.compat.agent_class import agent_class, variables
from agl.errors import ConfigError
from agl.rollouts import Failure
from agl.testing.scripted import ScriptedServer

AGENT = """
import json, os, urllib.request

class Agent:
    kind = "reward"

    async def run(self):
        self.post(os.environ["AGL_EVENT_URL"], {"event_type": self.kind, "data": {"value": float(os.environ["REWARD"])}})

    def post(self, url, body):
        headers = {"Authorization": "Bearer " + os.environ["AGL_KEY"], "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            return json.load(answer)

class Note(Agent):
    kind = "note"

class Broken:
    def run(self):
        raise ValueError("no such tool")
"""
TASK = {"reward": 0.75, "steps": [{"name": "first"}], "text": "a = b"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old_agent.py").write_text(AGENT)

    def once(path, env_map):
        with ScriptedServer() as server:
            trainer = agl.Trainer(initial_resources={"main_llm": server.llm()}, quiet=True, max_attempts=1)
            return trainer.dev(agent_class(path, env_map), [TASK])[0]

    return once


@pytest.mark.parametrize("path", ["old_agent.Agent", "old_agent:Agent"])
def test_it_posts_its_reward(run, path):
    result = run(path, {"REWARD": "input.reward"})
    assert (result.succeeded, result.reward) == (True, 0.75)


def test_an_event_of_another_kind_is_refused_and_leaves_no_reward(run):
    result = run("old_agent.Note", {"REWARD": "input.reward"})
    assert result.failure == Failure.AGENT
    assert "HTTP Error 400" in result.rollout.attempt.error


def test_its_exception_is_the_agents_failure(run):
    result = run("old_agent.Broken", {})
    assert result.failure == Failure.AGENT
    assert "no such tool" in result.rollout.attempt.error


def test_a_field_that_the_task_lacks_is_named(run):
    result = run("old_agent.Agent", {"REWARD": "input.score"})
    assert "`env_map['REWARD']` is 'input.score', and the task has no `score`" in result.rollout.attempt.error


def test_variables_are_parts_of_the_task_or_texts():
    asked = {"A": "input.reward", "B": "input.steps.0.name", "C": "input.steps", "D": "input", "E": "literal", "F": "input.text"}
    found = variables(TASK, asked)
    assert (found["A"], found["B"], found["E"], found["F"]) == ("0.75", "first", "literal", "a = b")
    assert json.loads(found["C"]) == TASK["steps"]
    assert json.loads(found["D"]) == TASK


@pytest.mark.parametrize("source", ["input.steps.3", "input.steps.name", "input.text.0"])
def test_a_part_that_is_not_there_is_refused(source):
    with pytest.raises(ConfigError, match="the task has no"):
        variables(TASK, {"X": source})


def test_a_path_without_a_module_is_refused():
    with pytest.raises(ConfigError, match=r"must be `package\.module\.Class`, given was 'Agent'"):
        agent_class("Agent", {})
