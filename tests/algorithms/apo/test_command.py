"""`agl train --algorithm apo`: with a function and with a program as the agent, the model and the prompt given on the command line."""

import json
import sys

import pytest
from apo_agent import CAPITALS, MARK, SEED_PROMPT, TEST, TRAIN, VAL
from click.testing import CliRunner

from agl.cli import cli

APP = """
import agl
from apo_agent import ask, judged

@agl.rollout
async def repeat(task, llm, prompt_template):
    return judged(task["word"], await ask(llm, prompt_template.format(word=task["word"])))

def given(task):
    return task["word"]

def reward(task, output):
    return judged(task["word"], output.strip())
"""
PROGRAM = """
import json, os, sys, urllib.request
with open(os.environ["AGL_PROMPTS_FILE"]) as file:
    prompt = json.load(file)["ask"].format(word=json.load(sys.stdin))
body = json.dumps({"model": os.environ["AGL_MODEL"], "messages": [{"role": "user", "content": prompt}]}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
with urllib.request.urlopen(urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
"""


@pytest.fixture
def train(tmp_path, monkeypatch, agents_model, critic):
    """Runs the command in a folder with an agent, a program, tasks and a prompt; gives what it printed."""
    (tmp_path / "app_of_a_user.py").write_text(APP)
    (tmp_path / "agent.py").write_text(PROGRAM)
    (tmp_path / "ask.txt").write_text(f"{SEED_PROMPT}\n")
    for name, tasks in {"train": TRAIN, "val": VAL, "test": TEST}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app_of_a_user", raising=False)

    def run(*arguments):
        data = [
            "--data",
            "train.jsonl",
            "--val",
            "val.jsonl",
            "--test",
            "test.jsonl",
            "--endpoint",
            agents_model.base_url(),
            "--model",
            "m",
        ]
        options = [f"endpoint={critic.base_url()}", "model=critic", "max_rollouts=60", "probe_tasks=4", "screen_tasks=4"]
        sets = [item for option in options for item in ("--set", f"apo.{option}")]
        return CliRunner().invoke(cli, ["train", *arguments, *data, "--algorithm", "apo", *sets])

    return run


def best(folder, name):
    [found] = folder.glob(f".agl/runs/*/best/{name}.txt")
    return found.read_text()


def test_the_prompt_of_a_function_gets_better(train, tmp_path):
    done = train("app_of_a_user:repeat", "--prompt", "prompt_template=ask.txt")
    assert done.exit_code == 0, done.output
    assert "better prompts for ['prompt_template']" in done.output
    assert [rule in best(tmp_path, "prompt_template") for rule in (CAPITALS, MARK)] == [True, True]


def test_the_prompt_that_a_program_is_given_gets_better(train, tmp_path):
    program = ["--agent", f"{sys.executable} agent.py", "--input", "app_of_a_user:given", "--reward", "app_of_a_user:reward"]
    done = train(*program, "--prompt", "ask=ask.txt")
    assert done.exit_code == 0, done.output
    assert "better prompts for ['ask']" in done.output
    assert best(tmp_path, "ask").startswith(SEED_PROMPT)


def test_an_agent_whose_prompts_nobody_knows_is_told_how_to_give_one(train, tmp_path):
    (tmp_path / "half.py").write_text("print(0.5)")
    done = train("--agent", f"{sys.executable} half.py")
    assert done.exit_code == 1
    assert "no prompt of this agent is known" in done.output
    assert "`--prompt prompt_template=FILE`" in done.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--prompt", "ask.txt"], "`--prompt` takes NAME=FILE, such as prompt_template=ask.txt, given was `ask.txt`"),
        (["--prompt", "ask=none.txt"], "`--prompt ask=none.txt`: `none.txt` cannot be read"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_named(train, given, said):
    done = train("app_of_a_user:repeat", *given)
    assert done.exit_code == 1
    assert said in done.output


def test_an_endpoint_needs_the_name_of_a_model_there():
    done = CliRunner().invoke(cli, ["train", "a:b", "--data", "d.jsonl", "--algorithm", "apo", "--endpoint", "http://127.0.0.1:9/v1"])
    assert done.exit_code == 2
    assert "--endpoint and --model go together" in done.output
