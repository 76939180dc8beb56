"""The Trainer composes a run, refuses what cannot work before anything starts, and goes on where it was stopped."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys

import openai
import pandas as pd
import pytest

import agl
from agl.errors import AglError, ConfigError, GatewayError, NotFoundError, PluginError, RewardError
from agl.rollouts import Failure
from agl.store.sqlite import SQLiteStore
from agl.testing.scripted import Reply, ScriptedServer

TASKS = [{"id": n, "q": f"q{n}"} for n in range(6)]
PROMPT = {"prompt": agl.PromptTemplate(template="0")}


class Toy(agl.Algorithm):
    """Publishes a prompt per step and notes what it saw."""

    name = "toy"

    def __init__(self, steps=2, evaluate=False):
        self.steps, self.evaluate, self.seen, self.calls = steps, evaluate, [], []

    async def start(self, run):
        self.calls.append("start")
        return PROMPT

    async def fit(self, run):
        for step in run.steps(self.steps):
            groups = await run.rollout(run.train.sample(2), n=2)
            self.seen.append([(group.task.task_id, group.rewards) for group in groups])
            await run.publish(metrics={"reward": 1.0}, prompt=agl.PromptTemplate(template=str(step + 1)))
            if self.evaluate:
                await run.evaluate()
            await run.checkpoint(lambda folder: (folder / "state").write_text("x"))

    async def stop(self):
        self.calls.append("stop")


@agl.rollout
def agent(task, prompt):
    return float(prompt.template)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGL_RESUME", raising=False)


def trainer(**values):
    return agl.Trainer(**{"quiet": True, "initial_resources": PROMPT, **values})


@pytest.fixture
def server():
    with ScriptedServer("42") as running:
        yield running


def llm(server, **values):
    return {"main_llm": agl.LLM(endpoint=server.base_url(), model="m", **values)}


# fit, dev, evaluate.


def test_fit_lets_the_algorithm_learn_step_by_step(tmp_path):
    toy = Toy(evaluate=True)
    result = agl.Trainer(algorithm=toy, quiet=True).fit(agent, TASKS, TASKS[:3], test_dataset=TASKS[3:])
    assert toy.calls == ["start", "stop"]
    assert [[rewards for _, rewards in step] for step in toy.seen] == [[[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2]
    assert (result.before.mean, result.after.mean, result.resources["prompt"].template) == (0.0, 2.0, "2")
    assert re.fullmatch(rf"run {result.run_id}: test reward 0.000 -> 2.000 on 3 tasks in \d+ s", result.summary())
    lines = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    evaluations = [json.loads(line) for line in (result.directory / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["step"], line["reward"]) for line in evaluations] == [
        ("test", 0, 0.0),
        ("val", 1, 1.0),
        ("val", 2, 2.0),
        ("test", 2, 2.0),
    ]
    assert (result.store, result.checkpoint.name) == (agl.trainer.Path(".agl/store.sqlite"), "step-000002")


def test_every_task_comes_once_per_epoch():
    toy = Toy(steps=3)
    agl.Trainer(algorithm=toy, quiet=True).fit(agent, TASKS)
    assert sorted(task_id for step in toy.seen for task_id, _ in step) == sorted(str(task["id"]) for task in TASKS)


def test_dev_prints_the_tree_of_spans_with_rewards_and_changes_nothing_on_disk(server, tmp_path, capsys):
    @agl.rollout
    def talker(task, llm):
        client = openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key)
        with agl.role("writer"), agl.operation("think [bold]"):
            answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": task["q"]}])
            agl.emit_reward(0.5, name="parsed")
        client.close()
        return answer.choices[0].message.content == "42"

    before = sorted(tmp_path.rglob("*"))
    results = agl.Trainer(initial_resources=llm(server)).dev(talker, [{"q": f"q{n}"} for n in range(12)])
    shown = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert [result.reward for result in results] == [1.0] * 10
    assert shown.count("reward 1") >= 10
    for part in ("agent talker", "operation think [bold]", "llm chat m", "role writer", "42", "reward parsed = 0.5"):
        assert part in shown


def test_dev_shows_agents_that_fail_rather_than_raise(capsys):
    @agl.rollout
    def broken(task, prompt):
        raise ValueError("no such column")

    (result,) = agl.Trainer(initial_resources=PROMPT).dev(broken, TASKS[:1])
    shown = capsys.readouterr().out
    assert result.failure == Failure.AGENT
    assert "FAILED (agent)" in shown
    assert "ValueError: no such column" in shown


def test_evaluate_gives_the_mean_and_the_reward_by_a_field(server):
    @agl.rollout
    async def guess(task, llm):
        return float(task["level"] == "easy")

    evaluation = trainer(initial_resources=llm(server)).evaluate(guess, [{"level": level} for level in ("easy", "hard", "easy", "easy")])
    assert (evaluation.mean, evaluation.mode, evaluation.by("level")) == (0.75, "test", {"easy": (1.0, 3), "hard": (0.0, 1)})


def test_evaluate_uses_the_eval_parameters(server):
    @agl.rollout
    async def talker(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], temperature=0.9)
        return 1.0

    resources = llm(server, sampling_parameters={"temperature": 1.0}, eval_parameters={"temperature": 0.0})
    trainer(initial_resources=resources).evaluate(talker, TASKS[:1])
    assert server.requests[0].body["temperature"] == 0.0


def test_two_trainers_after_each_other_share_a_store_and_no_state():
    first = agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS)
    second = agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS)
    assert first.run_id != second.run_id
    with sqlite3.connect(".agl/store.sqlite") as connection:
        rows = connection.execute("SELECT run_id, status, count(*) FROM rollouts GROUP BY 1, 2").fetchall()
    connection.close()
    assert sorted(rows) == sorted([(first.run_id, "succeeded", 8), (second.run_id, "succeeded", 8)])


@pytest.mark.parametrize(
    ("late", "order"),
    [(False, ["executor up", "start", "stop", "executor down"]), (True, ["start", "executor up", "executor down", "stop"])],
)
def test_an_executor_starts_before_the_algorithm_or_joins_what_it_brings(late, order):
    from agl.runner import ThreadExecutor

    toy = Toy()

    class Joining(ThreadExecutor):
        after_algorithm = late

        async def start(self):
            toy.calls.append("executor up")

        async def stop(self):
            toy.calls.append("executor down")

    agl.Trainer(algorithm=toy, executor=Joining, quiet=True).fit(agent, TASKS)
    assert toy.calls == order


async def test_it_works_inside_a_running_event_loop_as_in_a_notebook():
    assert asyncio.get_running_loop().is_running()
    assert trainer().dev(agent, TASKS[:1])[0].reward == 0.0


def test_no_thread_of_a_run_is_left_behind():
    import threading
    import time

    trainer().dev(agent, TASKS)
    before = threading.active_count()
    for _ in range(3):
        trainer().dev(agent, TASKS)
    time.sleep(0.2)
    assert threading.active_count() <= before + 1


def test_a_placeholder_key_is_there_during_the_run_and_gone_after_it(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    @agl.rollout
    def keyed(task, prompt):
        return float(bool(os.environ["OPENAI_API_KEY"]))

    assert trainer().dev(keyed, TASKS[:1])[0].reward == 1.0
    assert "OPENAI_API_KEY" not in os.environ


# What is refused before anything starts.


def test_n_workers_is_the_old_name_of_n_runners():
    assert (trainer(n_workers=3).n_runners, trainer(n_runners=4).n_runners) == (3, 4)
    with pytest.raises(ConfigError, match="`n_workers` is the old name of `n_runners`; give one of them"):
        trainer(n_workers=3, n_runners=4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapter": {"agent_mach": "x"}}, r"`adapter` has the options \['agent_match', 'credit', .*\], given was \['agent_mach'\]"),
        ({"adapter": {"agent_match": "("}}, "`agent_match` must be a regular expression"),
        (
            {"roles": {"a": "learn"}},
            r"must be `train`, `freeze`, `original` or the name of an `LLM` resource \(there is none yet\), given was 'learn'",
        ),
        ({"n_runners": 0}, "`n_runners` must be an integer of at least 1, given was 0"),
        ({"n_runners": True}, "`n_runners` must be an integer"),
        ({"max_attempts": 0}, "`max_attempts` must be an integer of at least 1"),
        ({"timeout": 0}, "`timeout` must be positive seconds or None"),
        ({"algorithm": object()}, "`algorithm` must be an `agl.Algorithm` or the name of one"),
        (
            {"initial_resources": {"main_llm": "http://x"}},
            r"`initial_resources\['main_llm'\]` must be an `agl.LLM` or `agl.PromptTemplate`",
        ),
    ],
)
def test_an_option_that_cannot_work_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        trainer(**options)


def test_an_unknown_algorithm_is_refused_with_those_installed():
    with pytest.raises(PluginError, match="no algorithm is named `nosuch`; there are"):
        trainer(algorithm="nosuch")


def test_fit_needs_an_algorithm():
    with pytest.raises(ConfigError, match=r"`fit` needs `algorithm=`"):
        trainer().fit(agent, TASKS)


def test_without_resources_there_is_nothing_to_run_with():
    with pytest.raises(ConfigError, match=r"initial_resources="):
        agl.Trainer(quiet=True).dev(agent, TASKS)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pd.DataFrame({"q": ["a"]}), r"to_dict\('records'\)"),
        ([], "`train_dataset` is empty"),
        ({"q": "a"}, "must be a sequence of dicts, given was dict"),
        ([{"id": 1}, {"id": 1}], r"`train_dataset\[1\]` has the id `1`"),
    ],
)
def test_a_dataset_that_cannot_work_is_refused_by_its_name(data, says):
    with pytest.raises(ConfigError, match=says):
        agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, data)
    assert not os.path.exists(".agl")


def test_a_dataset_without_the_field_that_input_takes_is_refused_with_the_fields_it_has():
    toy = Toy()
    asked = agl.agent(lambda text: text, input=lambda task: task["question"], reward=lambda task, output: 1.0)
    with pytest.raises(
        ConfigError, match=r"`val_dataset\[0\]`: the `input` function failed with KeyError: 'question'; the task has the fields \['q'\]"
    ):
        agl.Trainer(algorithm=toy, quiet=True).fit(asked, [{"question": "a"}], [{"q": "a"}])
    assert toy.calls == []
    assert not os.path.exists(".agl")


def test_a_function_whose_first_parameter_is_not_task_is_refused():
    with pytest.raises(ConfigError, match=r"the first parameter of `wrong` must be named `task`, it has \['question'\]"):

        @agl.rollout
        def wrong(question): ...


def test_an_object_that_is_no_agent_is_refused_with_its_type():
    with pytest.raises(ConfigError, match=r"no plugin knows how to run a builtins\.int"):
        trainer().dev(3, TASKS)


def test_an_endpoint_that_is_down_is_said_before_anything_starts():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(GatewayError, match=rf"the endpoint of `main_llm`, {endpoint}, cannot be reached"):
            trainer(initial_resources={"main_llm": agl.LLM(endpoint=endpoint, model="m")}).dev(agent, TASKS)


def test_an_endpoint_that_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="must be a URL such as"):
        trainer(initial_resources={"main_llm": agl.LLM(endpoint="localhost:8000", model="m")}).dev(agent, TASKS)


def test_a_gateway_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=f"127.0.0.1:{port}"):
            trainer(gateway_port=port).dev(agent, TASKS)


def test_a_store_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no database" * 100)
    with pytest.raises(AglError, match=r"store `notes.txt` is no store: file is not a database"):
        agl.Trainer(algorithm=Toy(), quiet=True, store="notes.txt").fit(agent, TASKS)


# What stops a run.


def test_when_all_rollouts_fail_the_first_traceback_is_shown_and_what_to_try():
    @agl.rollout
    def broken(task, prompt):
        return {}["missing"]

    toy = Toy()
    with pytest.raises(AglError, match=r"(?s)all 4 rollouts failed \(4 agent\).*in broken.*KeyError: 'missing'.*Trainer.dev"):
        agl.Trainer(algorithm=toy, quiet=True).fit(broken, TASKS)
    assert toy.calls == ["start", "stop"]


def test_when_most_rollouts_have_no_reward_the_run_stops_with_the_reason():
    @agl.rollout
    def silent(task, prompt): ...

    with pytest.raises(RewardError, match="4 of 4 rollouts have no usable reward; the first says: no reward: `silent` returned None"):
        agl.Trainer(algorithm=Toy(), quiet=True).fit(silent, TASKS)


def test_when_the_endpoint_fails_every_rollout_the_run_stops_with_what_it_said():
    @agl.rollout
    async def talker(task, llm):
        async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        return 1.0

    with (
        ScriptedServer(lambda body: Reply("no GPU left", status=503)) as server,
        pytest.raises(GatewayError, match=r"all 4 rollouts failed at the endpoint"),
    ):
        agl.Trainer(algorithm=Toy(), quiet=True, initial_resources=llm(server)).fit(talker, TASKS)


def test_a_plugin_that_breaks_during_the_run_stops_it_with_its_name():
    class Judge:
        @agl.hookimpl
        def agl_reward(self, result):
            raise KeyError("gold")

    toy = Toy()
    with pytest.raises(PluginError, match="plugin `Judge` failed in `agl_reward`"):
        agl.Trainer(algorithm=toy, quiet=True, plugins=[Judge()]).fit(agent, TASKS)
    assert toy.calls == ["start", "stop"]


def test_what_the_algorithm_raises_comes_out_as_it_is():
    class Broken(Toy):
        async def fit(self, run):
            raise ZeroDivisionError("loss")

    with pytest.raises(ZeroDivisionError, match="loss"):
        agl.Trainer(algorithm=Broken(), quiet=True).fit(agent, TASKS)


# Stopping and going on.

SCRIPT = """
import sys, time
import agl

class Toy(agl.Algorithm):
    name = "toy"
    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template=str(run.finished))}
    async def fit(self, run):
        for step in run.steps(4):
            await run.rollout(run.train.sample(2), n=2)
            await run.publish(metrics={"reward": 1.0}, prompt=agl.PromptTemplate(template=str(step + 1)))
            await run.checkpoint(lambda folder: (folder / "state").write_text("x"))

hang, resume = sys.argv[1] == "hang", sys.argv[2] == "resume"

@agl.rollout
def agent(task, rollout):
    if hang and rollout.step == 2:
        print("hangs", flush=True)
        time.sleep(600)
    return 1.0

if __name__ == "__main__":
    result = agl.Trainer(algorithm=Toy(), seed=5).fit(agent, [{"id": n} for n in range(5)], resume=resume or None)
    print("done", result.run_id, flush=True)
"""


def start(folder, *arguments):
    folder.mkdir(exist_ok=True)
    (folder / "run.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "run.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def finish(folder, *arguments):
    process = start(folder, *arguments)
    out = process.communicate(timeout=90)[0]
    assert process.returncode == 0, out
    return out


def trained(folder):
    """(step, task, sample, seed) of what was learned from, the steps of the metrics, and the runs' statuses."""
    connection = sqlite3.connect(folder / ".agl" / "store.sqlite")
    rollouts = [json.loads(body) for (body,) in connection.execute("SELECT body FROM rollouts WHERE status = 'succeeded'")]
    runs = connection.execute("SELECT status, step FROM runs").fetchall()
    connection.close()
    (metrics,) = (folder / ".agl" / "runs").glob("*/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    return {(r["step"], r["task"]["task_id"], r["sample"], r["seed"]) for r in rollouts}, steps, runs


def statuses(folder):
    connection = sqlite3.connect(folder / ".agl" / "store.sqlite")
    found = {status for (status,) in connection.execute("SELECT status FROM rollouts")}
    connection.close()
    return found


def test_a_run_that_was_stopped_or_killed_goes_on_as_if_it_never_had(tmp_path):
    stopped, killed, whole = tmp_path / "stopped", tmp_path / "killed", tmp_path / "whole"
    hanging = {folder: start(folder, "hang", "new") for folder in (stopped, killed)}
    finish(whole, "run", "new")
    for process in hanging.values():
        while "hangs" not in process.stdout.readline():
            assert process.poll() is None
    hanging[stopped].send_signal(signal.SIGINT)
    hanging[killed].send_signal(signal.SIGKILL)
    out = {folder: process.communicate(timeout=60)[0] for folder, process in hanging.items()}
    assert hanging[stopped].returncode not in (0, None)
    assert "KeyboardInterrupt" in out[stopped]
    assert re.search(r"stopped after 2 steps; go on with: agl train --resume run-\w+", out[stopped])
    assert "Task was destroyed" not in out[stopped]
    assert trained(stopped)[2] == [("stopped", 2)]
    assert statuses(stopped) == {"succeeded", "cancelled"}
    assert trained(killed)[2] == [("running", 2)]
    for folder in (stopped, killed):
        assert "goes on after step 2" in finish(folder, "run", "resume")
        assert trained(folder) == trained(whole)
    assert trained(whole)[1:] == ([1, 2, 3, 4], [("done", 4)])


def test_a_run_that_is_done_is_not_gone_on_with():
    result = agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS)
    with pytest.raises(ConfigError, match=rf"run `{result.run_id}` is done"):
        agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS, resume=result.run_id)
    with pytest.raises(ConfigError, match="has no unfinished run"):
        agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS, resume=True)
    with pytest.raises(NotFoundError, match="no run `other`"):
        agl.Trainer(algorithm=Toy(), quiet=True).fit(agent, TASKS, resume="other")


def test_a_run_goes_on_only_with_its_own_configuration():
    class Fails(Toy):
        async def fit(self, run):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agl.Trainer(algorithm=Fails(), quiet=True, seed=1).fit(agent, TASKS)
    with pytest.raises(ConfigError, match="can only go on with its own configuration: seed was 1 and is 2"):
        agl.Trainer(algorithm=Fails(), quiet=True, seed=2).fit(agent, TASKS, resume=True)


def test_a_run_whose_algorithm_cannot_start_is_recorded_as_failed(tmp_path):
    class Broken(agl.Algorithm):
        async def start(self, run):
            raise ConfigError("no such model")

    with pytest.raises(ConfigError, match="no such model"):
        agl.Trainer(algorithm=Broken(), store=tmp_path / "store.sqlite", quiet=True).fit(agent, [{"x": 1}])
    store = SQLiteStore(tmp_path / "store.sqlite")
    assert [record.status for record in asyncio.run(store.runs())] == ["failed"]
    store.close()


def test_an_observer_that_fails_does_not_stop_the_run_and_its_failures_are_counted_at_the_end(capsys):
    class Watcher:
        name = "watcher"

        @agl.hookimpl
        def agl_step_ended(self, metrics):
            raise RuntimeError("dashboard down")

    made = trainer(algorithm=Toy(steps=3), plugins=[Watcher()], quiet=False)
    made.fit(agent, TASKS)
    assert made.plugins.observer_failures == {"watcher.agl_step_ended": 3}
    assert "plugin hook watcher.agl_step_ended failed 3 times" in capsys.readouterr().out


class TwoPrompts(agl.Algorithm):
    """Runs two versions at the same time, and returns the one that is told."""

    name = "two-prompts"
    only_prompts = True

    def __init__(self, returns="1"):
        self.returns, self.groups = returns, []

    async def fit(self, run):
        versions = [await run.publish(prompt=agl.PromptTemplate(template=text)) for text in ("1", "2")]
        tasks = list(run.train)[:2]
        self.groups = await asyncio.gather(*(run.rollout(tasks, resources=each, key=f"v{n}") for n, each in enumerate(versions)))
        await run.publish(prompt=agl.PromptTemplate(template=self.returns), metrics={})

    def summary(self):
        return f"the prompt is {self.returns}"


def test_rollouts_of_two_versions_run_at_the_same_time_each_under_its_own():
    algorithm = TwoPrompts()
    agl.Trainer(algorithm=algorithm, initial_resources=PROMPT, quiet=True).fit(agent, TASKS)
    assert [group.rewards for groups in algorithm.groups for group in groups] == [[1.0], [1.0], [2.0], [2.0]]
    rollouts = [group.results[0].rollout for groups in algorithm.groups for group in groups]
    assert len({rollout.seed for rollout in rollouts}) == len({rollout.group_id for rollout in rollouts}) == 4
    assert rollouts[0].group_id == "v0-train-0"


def test_the_test_set_is_not_measured_twice_with_the_same_prompts():
    calls = []

    @agl.rollout
    def counted(task, prompt, rollout):
        calls.append(rollout.mode)
        return float(prompt.template)

    for returns, tests, after in (("0", 6, 0.0), ("2", 12, 2.0)):
        calls.clear()
        result = agl.Trainer(algorithm=TwoPrompts(returns), initial_resources=PROMPT, quiet=True).fit(counted, TASKS, test_dataset=TASKS)
        assert (calls.count("test"), result.before.mean, result.after.mean) == (tests, 0.0, after)


def test_a_result_says_what_the_algorithm_says_and_shows_how_the_prompt_changed():
    result = agl.Trainer(algorithm=TwoPrompts(), initial_resources=PROMPT, quiet=True).fit(agent, TASKS)
    assert result.summary().startswith("the prompt is 1\nrun ")
    assert result.diff("prompt") == result.diff() == "--- prompt (before)\n+++ prompt (after)\n@@ -1 +1 @@\n-0\n+1\n"
    with pytest.raises(NotFoundError, match=r"no prompt `other`; the run began with \['prompt'\]"):
        result.diff("other")


def test_a_terminal_has_one_bar_at_a_time(monkeypatch):
    from agl import console as module

    bars = []

    class Bars(module.Progress):
        def add_task(self, description, **options):
            bars.append(description)
            return super().add_task(description, **options)

    console = module.Console()
    monkeypatch.setattr(module, "Progress", Bars)
    monkeypatch.setattr(type(console._rich), "is_terminal", True)
    with console.rollouts("outer", 2) as outer, console.rollouts("inner", 1) as inner:
        inner(1)
        outer(2)
    with console.rollouts("next", 1) as following:
        following(1)
    assert bars == ["outer rollouts", "next rollouts"]


def test_rollouts_that_nobody_waits_for_any_more_are_cancelled():
    seen = []

    class GivesUp(agl.Algorithm):
        name = "gives-up"

        async def fit(self, run):
            waiting = asyncio.ensure_future(run.rollout(list(run.train)[:3]))
            await asyncio.sleep(0.3)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            seen.extend(str(result.rollout.status) for result in await run.store.results(await run.store.find(run.id)))

    @agl.rollout
    async def sleepy(task):
        await asyncio.sleep(30)

    agl.Trainer(algorithm=GivesUp(), initial_resources=PROMPT, n_runners=1, quiet=True).fit(sleepy, TASKS)
    assert seen == ["cancelled"] * 3
