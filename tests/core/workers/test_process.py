"""Agents in processes of their own: recorded as in threads, killed where they must be, refused before anything starts where they cannot go."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import worker_agents

import agl
from agl.errors import ConfigError, PluginError
from agl.hookspecs import hookimpl
from agl.rollouts import Failure
from agl.testing.scripted import Reply, ScriptedServer
from agl.workers.process import ProcessLink

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evaluate(agent, tasks, executor="process", *, llm=None, **options):
    resources = {"main_llm": llm} if llm else {"prompt": agl.PromptTemplate(template="?")}
    options = {"n_runners": 1, "max_attempts": 1, "timeout": 60.0, "quiet": True, "initial_resources": resources, **options}
    return agl.Trainer(executor=executor, store=f"{executor}.sqlite", **options).evaluate(agent, tasks).results


def told(result):
    """What is recorded of a rollout, without ids and times."""
    names = {span.span_id: span.name for span in result.spans} | {None: None}
    spans = sorted(
        (span.name, span.kind, span.role, names.get(span.parent_id), span.status, repr(span.attributes.get("value")))
        for span in result.spans
    )
    calls = [span.span_id for span in result.spans if span.kind == "llm"]
    rewards = [(r.name, r.value, r.source, r.span_id and calls.index(r.span_id)) for r in result.rewards]
    return spans, sorted(rewards, key=repr), result.reward, result.failure


@pytest.mark.parametrize(("agent", "refusals"), [(worker_agents.by_plain_http, 0), (worker_agents.by_the_sdk, 1)])
def test_what_is_recorded_is_what_a_thread_records(agent, refusals):
    tasks, seen = [{"n": n} for n in range(3)], {}
    for executor in ("thread", "process"):
        with ScriptedServer(lambda body: Reply(f"echo {body['messages'][0]['content']}"), fail_first=refusals, fail_status=429) as server:
            seen[executor] = [told(result) for result in evaluate(agent, tasks, executor, llm=server.llm(), max_attempts=2)]
    assert seen["process"] == seen["thread"]
    assert [reward[3] for reward in seen["process"][2][1] if reward[0] == "piece"] == [0, 1]


def test_an_endpoint_past_the_gateway_that_fails_is_no_failure_of_the_agent():
    results = evaluate(worker_agents.own_endpoint_fails, [{"again": False}, {"again": True}])
    assert [result.failure for result in results] == [Failure.INFRASTRUCTURE, None]


@pytest.mark.parametrize(("how", "said"), [("exit", "ended with exit code 7"), ("crash", r"was ended by signal 11 \(SIGSEGV\)")])
def test_a_worker_that_dies_costs_its_attempt_alone_and_is_replaced(how, said):
    before, dead, after = evaluate(worker_agents.dies, [{"how": "not"}, {"how": how}, {"how": "not"}])
    assert (before.failure, dead.failure, after.failure) == (None, Failure.INFRASTRUCTURE, None)
    assert re.search(rf"the worker process {said}; the attempt can be made again", dead.rollout.attempt.error)
    assert before.reward != after.reward  # ids of processes
    assert os.getpid() not in (before.reward, after.reward)


@pytest.mark.parametrize("agent", [worker_agents.spins, worker_agents.spins_on_the_loop])
def test_an_agent_that_never_lets_go_is_killed_at_its_deadline_with_what_it_started(agent):
    spun, after = evaluate(agent, [{"spin": True}, {"spin": False}], timeout=1.0)
    assert (spun.failure, after.failure) == (Failure.TIMEOUT, None)
    for child in (span.attributes["value"] for span in spun.spans if span.kind == "object"):
        assert gone(child)


def gone(pid, seconds=20.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if ") Z" in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_what_cannot_be_pickled_is_found_by_its_name_in_a_module():
    (result,) = evaluate(worker_agents.held, [{"n": 1}])
    assert result.reward not in (None, float(os.getpid()))


def test_plugins_given_in_code_act_where_the_agent_runs():
    (result,) = evaluate(worker_agents.own_endpoint_fails, [{"again": True}], plugins=[worker_agents.Marks("marked")])
    assert [span.name for span in result.spans] == ["marked", "own_endpoint_fails"]


def test_a_plugin_that_breaks_in_a_worker_ends_the_run_and_is_named(monkeypatch):
    with pytest.raises(PluginError, match="plugin `broken` failed in `agl_trace_rollout`: KeyError: 'in the worker'"):
        evaluate(worker_agents.held, [{"n": 1}], plugins=[worker_agents.Broken()])


# Refused before anything starts.


def closure():
    return agl.rollout(lambda task: 1.0)


class Local:
    name = "local"

    def __init__(self):
        self.local = lambda: None

    @hookimpl
    def agl_inject_resources(self, attempt):
        pass


def refused(agent, said, **options):
    with pytest.raises(ConfigError, match=said):
        evaluate(agent, [{"input": 1}], **options)
    assert not Path("process.sqlite").exists()


def test_an_agent_that_cannot_be_sent_is_refused_and_named():
    refused(closure(), r"the agent `<lambda>` cannot be sent to a worker process: .*test_process.py:\d+.*top level of a module")
    judged = agl.agent(len, name="length", reward=lambda task, output: 1.0)
    refused(judged, r"`reward` of `length` cannot be sent to a worker process: the function `.*<lambda>` of .*test_process.py:\d+")


def test_a_plugin_that_cannot_be_sent_is_refused_and_named():
    refused(worker_agents.held, r"the plugin `local` cannot be sent to a worker process: its .*Local cannot be pickled", plugins=[Local()])


def test_a_command_is_a_process_of_its_own_already():
    refused(agl.command("true"), "the agent `true` is a command: each attempt is a process of its own already")


def test_an_agent_that_a_worker_cannot_import_ends_the_run_before_the_first_rollout(monkeypatch):
    Path("only_here.py").write_text(
        "import os, agl\nif os.getpid() != int(os.environ['HERE']):\n    raise OSError('no such library')\n"
        "@agl.rollout\ndef agent(task):\n    return 1.0\n"
    )
    monkeypatch.setenv("HERE", str(os.getpid()))
    monkeypatch.syspath_prepend(os.getcwd())
    import only_here

    with pytest.raises(ConfigError, match=r"(?s)a worker process cannot load the agent:.*only_here.py.*OSError: no such library"):
        evaluate(only_here.agent, [{}])


# Scripts.

SCRIPT = """
    import os, subprocess, sys, threading, time
    import agl

    class Agent(agl.LitAgent):
        lock = threading.Lock()

        def __init__(self):
            self.own = threading.Lock()

        def rollout(self, task, resources, rollout):
            child = subprocess.Popen(["sleep", "120"])
            print(os.getpid(), child.pid, flush=True)
            if task["wait"]:
                time.sleep(120)
            child.kill()
            child.wait()
            return 0.5

    agent = Agent()

    {guard}
        trainer = agl.Trainer(executor="process", n_runners=1, quiet=True, timeout=60, initial_resources={{"p": agl.PromptTemplate(template="")}})
        print(trainer.evaluate(agent, [{{"wait": "wait" in sys.argv}}]).mean, flush=True)
"""


def start(*arguments, guard='if __name__ == "__main__":', code=None, **options):
    Path("script.py").write_text(textwrap.dedent(SCRIPT.format(guard=guard)))
    command = [sys.executable, *(["-c", code] if code else ["script.py", *arguments])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def test_what_a_script_defines_itself_is_found_by_its_workers():
    out, err = start().communicate(timeout=60)
    assert (out.splitlines()[-1], err) == ("0.5", "")


def test_a_script_without_a_guard_is_told_so_and_starts_nothing_twice():
    out, err = start(guard="if True:").communicate(timeout=60)
    assert 'put that part of the script under `if __name__ == "__main__":`' in err
    assert out == ""


def test_an_agent_that_is_made_under_the_guard_is_refused_and_told_where_to_make_it():
    code = (
        textwrap.dedent(SCRIPT.format(guard='if __name__ == "__main__":'))
        .replace("agent = Agent()", "")
        .replace("    trainer = ", "    agent = Agent()\n    trainer = ")
    )
    Path("guarded.py").write_text(code)
    done = subprocess.run([sys.executable, "guarded.py"], capture_output=True, text=True, check=False, timeout=60)
    assert "the script has no `agent` where a worker imports it; make it at the top level" in done.stderr


def test_an_agent_of_a_session_without_a_file_is_refused():
    code = textwrap.dedent(SCRIPT.format(guard="if True:"))
    _, err = start(code=code).communicate(timeout=60)
    assert "the agent `Agent` is defined in `__main__`, which has no file that a worker could import" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_the_trainer_is_the_end_of_its_workers_and_of_what_they_started(number):
    process = start("wait")
    try:
        worker, child = map(int, process.stdout.readline().split())
        process.send_signal(number)
        process.wait(60)
        assert gone(worker)
        assert gone(child)
    finally:
        process.kill()
        process.communicate()


async def test_a_message_of_which_half_has_come_is_whole_for_the_next_who_asks():
    link = ProcessLink()
    link._reader = asyncio.StreamReader()
    link._reader.feed_data(b"\0" * 7 + b"\5" + b"he")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.event(), 0.05)
    link._reader.feed_data(b"llo")
    assert await link.event() == b"hello"
