"""The command line, as a user types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agl.cli import cli, read_tasks
from agl.errors import ConfigError
from agl.testing.scripted import ScriptedServer

APP = """
import agl

@agl.rollout
async def agent(task, llm):
    from openai import AsyncOpenAI
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model="any", messages=[{"role": "user", "content": task["q"]}])
    return float(answer.choices[0].message.content == "42")

def answer(question):
    return question

def reward(task, output):
    return float(output == task["q"])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_app.py").write_text(APP)
    (tmp_path / "tasks.jsonl").write_text('{"q": "what"}\n\n{"q": "why"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def agl(*arguments, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-c", "from agl.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)


def test_help_names_every_command():
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert all(name in shown for name in ("train", "dev", "runs", "report"))


def test_dev_prints_the_tree_of_each_task(folder):
    with ScriptedServer("42") as server:
        done = agl("dev", "my_app:agent", "--data", "tasks.jsonl", "--endpoint", server.base_url(), "--model", "m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reward 1") >= 2
    assert "llm chat m" in done.stdout
    assert not (folder / ".agl").exists()


def test_an_error_is_one_readable_line_and_exit_code_1(folder):
    done = agl("dev", "my_app:agent", "--data", "tasks.jsonl", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the endpoint of `main_llm`, http://127.0.0.1:9/v1, cannot be reached")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "missing AGENT or --agent, --data, --algorithm"),
        (["train", "my_app:agent", "--data", "tasks.jsonl", "--algorithm", "none"], "no algorithm is named `none`"),
        (
            ["train", "my_app:nothing", "--data", "tasks.jsonl", "--algorithm", "grpo", "--set", "grpo.model=x"],
            "`my_app:nothing` cannot be imported",
        ),
        (["train", "my_app", "--data", "tasks.jsonl", "--algorithm", "grpo", "--set", "grpo.model=x"], "`my_app` must be `module:object`"),
        (["train", "my_app:agent", "--data", "tasks.jsonl", "--algorithm", "grpo", "--set", "model=x"], "`--set` takes grpo.OPTION=VALUE"),
        (["train", "my_app:agent", "--data", "no.jsonl", "--algorithm", "grpo", "--set", "grpo.model=x"], "there is no file `no.jsonl`"),
        (["train", "--resume"], "there is no store"),
        (["runs"], "there is no store"),
        (["report", "run-1"], "there is no store `.agl/store.sqlite`"),
    ],
)
def test_what_cannot_work_is_said(folder, arguments, says):
    done = agl(*arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_plugins_lists_packages_and_states(folder):
    shown = agl("plugins").stdout
    assert "openai_sdk" in shown
    assert "agl-core" in shown
    assert "blocked" in agl("plugins", AGL_PLUGINS_DISABLED="credit").stdout


def test_tasks_come_from_json_lines_arrays_and_parquet(folder):
    import pandas

    rows = [{"q": "what"}, {"q": "why"}]
    Path("tasks.json").write_text('[{"q": "what"}, {"q": "why"}]')
    pandas.DataFrame(rows).to_parquet("tasks.parquet")
    assert read_tasks(Path("tasks.jsonl")) == read_tasks(Path("tasks.json")) == read_tasks(Path("tasks.parquet")) == rows
    Path("tasks.txt").write_text("")
    with pytest.raises(ConfigError, match=r"must be \.jsonl, \.json or \.parquet"):
        read_tasks(Path("tasks.txt"))


SCRIPT = """
import agl, sys, time

class Counting(agl.Algorithm):
    async def fit(self, run):
        for step in run.steps(4):
            await run.rollout(run.train.sample(1))
            await run.publish(metrics={"reward": 1.0})
            await run.checkpoint(lambda folder: None)
            print("checkpoint", run.finished, flush=True)
            if step == 1 and not run.restored:
                import asyncio
                await asyncio.sleep(60)

@agl.rollout
def agent(task):
    return 1.0

agl.Trainer(algorithm=Counting()).fit(agent, [{"x": 1}])
"""


def test_ctrl_c_ends_a_script_cleanly_and_train_resume_goes_on_at_its_last_step(folder):
    (folder / "train.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, "train.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        shown = []
        while "checkpoint 2\n" not in shown:
            shown.append(script.stdout.readline())
            assert shown[-1]
        script.send_signal(signal.SIGINT)
        rest, _ = script.communicate(timeout=30)
    assert script.returncode != 0
    [run] = re.findall(r"stopped after 2 steps; go on with: agl train --resume (\S+)", rest)
    assert "stopped" in agl("runs").stdout
    resumed = agl("train", "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert f"run {run} goes on after step 2" in resumed.stdout
    assert re.findall(r"checkpoint (\d)", resumed.stdout) == ["3", "4"]
    assert "done" in agl("runs").stdout
