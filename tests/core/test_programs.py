"""Programs are agents: they are told what to do, their calls and rewards are taken, and nothing of them is left behind."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import agl
from agl import processes
from agl.agents import AgentSpec
from agl.context import ContextExecutor
from agl.errors import ConfigError
from agl.gateway.server import Gateway
from agl.plugins import Plugins
from agl.programs import Program
from agl.resources import LLM, PromptTemplate
from agl.rollouts import AttemptStatus, Failure
from agl.runner import BoundAgent, ThreadExecutor
from agl.spans import SpanKind
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import call_of, transitions_of

RUN = "run"
KEY = "sk-upstream-secret-key"
CALL = """
    import json, os, sys, urllib.request
    def post(url, body, **headers):
        headers = {"Authorization": "Bearer " + os.environ["AGL_API_KEY"], "Content-Type": "application/json", **headers}
        return json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)))
    def ask(text):
        body = {"model": os.environ["AGL_MODEL"], "messages": [{"role": "user", "content": text}]}
        return post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)["choices"][0]["message"]["content"]
    task = json.load(sys.stdin)
"""


@pytest.fixture
def program(tmp_path):
    """A Python program that has `task`, `ask` and `post`."""

    def make(code, **options):
        path = tmp_path / f"agent{len(list(tmp_path.glob('agent*.py')))}.py"
        path.write_text(textwrap.dedent(CALL) + textwrap.dedent(code))
        return agl.command([sys.executable, "-S", str(path)], **options)

    return make


@pytest.fixture
async def run(store, make_rollout):
    """Runs an agent on tasks and gives the results."""
    asyncio.get_running_loop().set_default_executor(ContextExecutor())
    gateway = Gateway(store)
    await gateway.start()

    async def run(agent, *tasks, llm=None, prompts=None, timeout=20.0, plugins=(), stop_when=None, takes_rewards=True, **values):
        resources = {
            **({"main_llm": llm} if llm else {}),
            **{name: PromptTemplate(template=text) for name, text in (prompts or {}).items()},
        }
        version = (await store.publish(RUN, resources)).version
        loaded = Plugins(plugins)
        bound = BoundAgent(agent, loaded, takes_rewards=takes_rewards)
        rollouts = [make_rollout(task, resources_version=version, timeout=timeout, **values) for task in tasks or ({"q": "hi"},)]
        ids = [rollout.rollout_id for rollout in rollouts]
        await store.enqueue(rollouts)
        work = asyncio.ensure_future(
            ThreadExecutor(run_id=RUN, agent=bound, store=store, gateway=gateway, plugins=loaded, n_runners=8).run()
        )
        try:
            while await store.wait_ended(ids, timeout=0.2) and not work.done() and not (stop_when and stop_when()):
                pass
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        return await store.results(ids)

    yield run
    await gateway.stop()


@pytest.fixture
async def server():
    async with ScriptedServer("42") as running:
        yield running


def llm(server, **values):
    return LLM(endpoint=server.base_url(), model="policy", version="1", api_key=KEY, **values)


def process_of(result):
    [span] = [span for span in result.spans if span.name.startswith("process ")]
    return span


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc/self").exists() else True


async def gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not is_alive(pid)


# What a program is told, and what becomes of what it says.


async def test_a_program_calls_its_model_and_its_last_line_is_the_reward(run, program, server):
    agent = program("print(ask(task['q'])); print(0.5)")
    (result,) = await run(agent, {"q": "what?", "answer": "42"}, llm=llm(server))
    assert (result.reward, result.rewards[0].source, result.output) == (0.5, "agent", "42\n0.5\n")
    [call] = [span for span in result.spans if span.kind == SpanKind.LLM]
    assert call_of(call).request["messages"] == [{"role": "user", "content": "what?"}]
    assert all(item.trainable for item in transitions_of(result.spans))
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_reward_function_sees_what_it_printed_and_the_program_does_not_see_the_answer(run, program, server):
    seen = []
    agent = program(
        "print(sorted(task)); print(ask(task['q']))",
        input=lambda task: {"q": task["q"]},
        output=lambda text: text.splitlines(),
        reward=lambda task, output: seen.append(output) or float(output[-1] == task["answer"]),
    )
    (result,) = await run(agent, {"q": "what?", "answer": "42"}, llm=llm(server))
    assert (result.reward, result.rewards[0].source, seen) == (1.0, "returned", [["['q']", "42"]])


async def test_the_task_is_in_a_file_and_the_prompts_in_another(run, program, server):
    agent = program(
        """
        import pathlib
        assert json.loads(pathlib.Path(os.environ["AGL_TASK_FILE"]).read_text()) == task
        print(json.loads(pathlib.Path(os.environ["AGL_PROMPTS_FILE"]).read_text()))
        print(os.environ["AGL_MODE"], os.environ["AGL_MODEL"], os.environ["AGL_ROLLOUT_ID"], os.environ["TRACEPARENT"])
        print('{"reward": 1, "why": "done"}')
        """
    )
    (result,) = await run(agent, {"q": "é"}, llm=llm(server), prompts={"solver": "Sölve {it}.", "writer.system_prompt": "Write."})
    prompts, told, _ = result.output.splitlines()
    assert prompts == "{'solver': 'Sölve {it}.', 'writer.system_prompt': 'Write.'}"
    root = next(span for span in result.spans if span.parent_id is None)
    assert told == f"train policy {result.rollout.rollout_id} 00-{root.trace_id}-{process_of(result).span_id}-01"
    assert root.attributes["agl.prompts"] == ["solver", "writer.system_prompt"]


async def test_a_posted_reward_counts_and_the_last_line_is_then_no_reward(run, program, server):
    agent = program(
        """
        post(os.environ["AGL_REWARD_URL"], {"value": 0.25, "name": "tidy"})
        post(os.environ["AGL_REWARD_URL"], {"value": 0.75})
        print("1")
        """
    )
    (result,) = await run(agent, llm=llm(server))
    assert [(reward.name, reward.value, reward.source) for reward in result.rewards] == [("tidy", 0.25, "agent"), ("reward", 0.75, "agent")]


@pytest.mark.parametrize("last", ["forty-two", '{"score": 1}', "true", "NaN", "", '"1"'])
async def test_a_last_line_that_is_no_number_is_no_reward_and_said(run, last):
    (result,) = await run(agl.command(["printf", "%s\n", last]))
    assert (result.failure, result.reward) == (Failure.REWARD, None)
    assert f"its last line was `{last}`" in result.rollout.attempt.error


async def test_where_judges_judge_a_number_is_the_output(run):
    class Judge:
        @agl.hookimpl
        def agl_reward(self, result):
            return agl.Reward(value=float(result.output.strip() == "42"), source="judge")

    (result,) = await run(agl.command("echo 42"), {"input": "q"}, plugins=[Judge()])
    assert (result.reward, [reward.source for reward in result.rewards]) == (1.0, ["judge"])
    with pytest.raises(ConfigError, match="say which part of a task the agent may see"):
        BoundAgent(agl.command("echo 42"), Plugins([Judge()])).input({"answer": "42"})


async def test_attempts_run_at_the_same_time_and_are_kept_apart(run, program):
    def answer(body):
        return Reply(body["messages"][0]["content"], delay=0.2)

    agent = program("print(ask(task['q'])); print(task['n'])")
    async with ScriptedServer(answer) as server:
        results = await run(agent, *({"q": f"q{n}", "n": n} for n in range(8)), llm=llm(server))
    assert [(result.reward, result.output) for result in results] == [(n, f"q{n}\n{n}\n") for n in range(8)]
    for n, result in enumerate(results):
        [call] = [call_of(span) for span in result.spans if span.kind == SpanKind.LLM]
        assert call.request["messages"][0]["content"] == f"q{n}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_a_shell_script_with_curl_is_an_agent(run, server):
    ask = 'curl -s "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json"'
    body = r'"{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": $(cat)}]}"'
    script = f"""{ask} -d {body}; curl -s "$AGL_REWARD_URL" -d '{{"value": 0.5}}'"""
    (result,) = await run(agl.command(script, input=lambda task: task["q"]), {"q": "hi"}, llm=llm(server))
    assert (result.reward, result.failure) == (0.5, None)
    assert json.loads(result.output.partition("}{")[0] + "}")["choices"][0]["message"]["content"] == "42"
    assert server.requests[0].body["messages"][0]["content"] == "hi"


# Its environment.


async def test_no_key_of_an_upstream_reaches_the_program(run, program, server, monkeypatch):
    secrets = {"MY_PROVIDER_KEY": KEY, "OPENAI_API_KEY": "sk-mine", "ANTHROPIC_AUTH_TOKEN": "t", "AGL_CONFIG": "", "OPENAI_ORG_ID": "org"}
    for name, value in (secrets | {"MINE": "kept", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://elsewhere"}).items():
        monkeypatch.setenv(name, value)
    agent = program("print(json.dumps(dict(os.environ))); print(1)", env={"EXTRA": "1"})
    (result,) = await run(agent, llm=llm(server))
    told = json.loads(Path(process_of(result).attributes["output"]["stdout"]).read_text().splitlines()[0])
    assert KEY not in json.dumps(told)
    assert (
        not {"MY_PROVIDER_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_ORG_ID", "AGL_CONFIG", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} & told.keys()
    )
    assert (told["MINE"], told["EXTRA"]) == ("kept", "1")
    base = told["ANTHROPIC_BASE_URL"]
    assert base.endswith(f"/r/{result.rollout.rollout_id}/{result.rollout.attempt.attempt_id}")
    assert (told["OPENAI_BASE_URL"], told["AGL_REWARD_URL"], told["OTEL_EXPORTER_OTLP_ENDPOINT"]) == (f"{base}/v1", f"{base}/rewards", base)
    key = told["OPENAI_API_KEY"]
    assert key.startswith("agl-")
    assert {told["ANTHROPIC_API_KEY"], told["AGL_API_KEY"]} == {key}
    assert told["OTEL_EXPORTER_OTLP_HEADERS"] == f"authorization=Bearer%20{key}"
    assert "127.0.0.1" in told["NO_PROXY"].split(",")


async def test_a_key_that_is_none_takes_no_variables_away(run, program, server):
    agent = program("print(os.environ['PATH']); print(1)")
    (result,) = await run(agent, llm=LLM(endpoint=server.base_url(), model="policy", api_key="/"))
    assert result.output.splitlines()[0] == os.environ["PATH"]


async def test_without_a_model_among_the_resources_the_program_has_its_own_endpoint(run, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://mine/v1")
    (result,) = await run(agl.command("echo $OPENAI_BASE_URL; echo 1"))
    assert result.output == "http://mine/v1\n1\n"


def test_what_every_attempt_sets_itself_cannot_be_given():
    with pytest.raises(ConfigError, match=r"cannot set \['OPENAI_BASE_URL'\]"):
        agl.command("true", env={"OPENAI_BASE_URL": "http://mine"})


# How it is started.


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ("python3 -c 'print(1)'", ("python3", "-c", "print(1)")),
        ('python3 -c "print(1); print(2)"', ("python3", "-c", "print(1); print(2)")),
        (["echo", "a b", "$HOME"], ("echo", "a b", "$HOME")),
        (r"echo a\ b", ("echo", "a b")),
        ("echo 1 | cat", ("/bin/sh", "-c", "echo 1 | cat")),
        ('echo "$HOME"', ("/bin/sh", "-c", 'echo "$HOME"')),
        ("X=1 env", ("/bin/sh", "-c", "X=1 env")),
        ("ls ~", ("/bin/sh", "-c", "ls ~")),
    ],
)
def test_a_shell_runs_only_what_needs_one(given, arguments):
    assert Program(given, {}, None).arguments == arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no-such-program agent.mjs", "the program `no-such-program` of the agent `no-such-program agent.mjs` was not found on the PATH"),
        ("./agent.sh", r"was not found at `.*agent.sh`, or cannot be executed"),
        ("", "a command names a program and its arguments"),
        ("echo 'open", 'given was "echo \'open": No closing quotation'),
        ([], "a command names a program"),
        (["echo", 1], "a command names a program"),
        (7, "a command is a text or a list of texts, given was 7"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_starts(given, message):
    with pytest.raises(ConfigError, match=message):
        agl.command(given)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="`cwd` of `true` must be a folder"):
        agl.command("true", cwd=tmp_path / "none")


async def test_it_runs_in_its_folder_and_a_script_there_is_found(run, tmp_path):
    script = tmp_path / "agent.sh"
    script.write_text("#!/bin/sh\npwd\necho 1\n")
    script.chmod(0o755)
    (result,) = await run(agl.command("./agent.sh", cwd=tmp_path))
    assert result.output == f"{tmp_path}\n1\n"


# How it ends.


async def test_another_exit_code_than_0_is_the_agents_failure_with_its_last_words(run):
    (result,) = await run(agl.command("echo out; echo boom >&2; exit 3"))
    assert (result.failure, result.reward, result.rollout.attempt.status) == (Failure.AGENT, 0.0, AttemptStatus.FAILED)
    first, last = result.rollout.attempt.error.splitlines()
    assert first == "boom"
    assert "ended with exit code 3; what it printed is in " in last
    span = process_of(result)
    assert (span.status, span.error, span.attributes["process.exit.code"]) == ("error", "ended with exit code 3", 3)
    assert [Path(span.attributes["output"][name]).read_text() for name in ("stdout", "stderr")] == ["out\n", "boom\n"]


async def test_a_program_that_dies_of_a_signal_has_failed(run):
    (result,) = await run(agl.command("kill -9 $$"))
    assert (result.failure, process_of(result).error) == (Failure.AGENT, "was ended by signal 9")


async def test_a_failing_endpoint_is_not_the_programs_failure(run, program):
    async with ScriptedServer("ok", fail_first=9, fail_status=503) as server:
        (result,) = await run(program("ask('hi')"), llm=llm(server))
    assert (result.failure, result.reward) == (Failure.INFRASTRUCTURE, None)


async def test_at_its_deadline_the_whole_process_group_is_killed(run, tmp_path):
    note = tmp_path / "pids"
    command = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {note}; while :; do sleep 1; done' & echo $$ >> {note}; echo partial; wait"
    (result,) = await run(agl.command(command), timeout=0.7)
    assert (result.failure, result.rollout.attempt.status) == (Failure.TIMEOUT, AttemptStatus.TIMEOUT)
    pids = [int(line) for line in note.read_text().split()]
    assert len(pids) == 2
    assert [await gone(pid) for pid in pids] == [True, True]
    assert Path(process_of(result).attributes["output"]["stdout"]).read_text() == "partial\n"


async def test_a_program_may_tidy_up_before_it_is_killed(run, tmp_path):
    command = f"trap 'echo tidy > {tmp_path}/note; exit 1' TERM; sleep 60 & wait"
    (result,) = await run(agl.command(command), timeout=0.5)
    assert result.failure == Failure.TIMEOUT
    assert (tmp_path / "note").read_text() == "tidy\n"


async def test_what_is_cancelled_is_killed(run, tmp_path):
    note = tmp_path / "pid"
    (result,) = await run(agl.command(f"echo $$ > {note}; exec sleep 60"), stop_when=lambda: note.exists() and note.read_text().strip())
    assert result.failure == Failure.CANCELLED
    assert await gone(int(note.read_text()))


async def test_what_a_program_leaves_running_ends_with_it(run, tmp_path):
    note = tmp_path / "pid"
    (result,) = await run(agl.command(f"sleep 60 & echo $! > {note}; echo 1"))
    assert result.reward == 1.0
    assert await gone(int(note.read_text()))


async def test_a_process_that_left_the_group_does_not_hold_the_attempt_up(run, program, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "DRAIN_SECONDS", 0.2)
    note = tmp_path / "pid"
    agent = program(
        f"""
        import subprocess
        left = subprocess.Popen(["sleep", "60"], start_new_session=True)
        open({str(note)!r}, "w").write(str(left.pid))
        print(1)
        """
    )
    started = time.monotonic()
    (result,) = await run(agent)
    assert result.reward == 1.0
    assert time.monotonic() - started < 30
    os.kill(int(note.read_text()), signal.SIGKILL)


@contextlib.contextmanager
def parent_of(command, tmp_path):
    """A process of its own that evaluates this program, which is to write its process id into the file `pid`."""
    note = tmp_path / "pid"
    code = f"""
        import agl
        trainer = agl.Trainer(initial_resources={{"p": agl.PromptTemplate(template="x")}}, quiet=True, store={str(tmp_path / "s.sqlite")!r})
        trainer.evaluate(agl.command({command!r}), [{{"q": 1}}])
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (note.exists() and note.read_text().strip()):
            assert parent.poll() is None, parent.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield parent
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_of_the_parent_ends_the_programs(tmp_path, presses):
    with parent_of("trap '' TERM INT; echo $$ > pid; while :; do sleep 1; done", tmp_path) as parent:
        for _ in range(presses):
            parent.send_signal(signal.SIGINT)
            time.sleep(0.5)
        parent.wait(30)
    assert asyncio.run(gone(int((tmp_path / "pid").read_text())))


def test_a_parent_that_is_killed_leaves_no_program_behind(tmp_path):
    with parent_of("trap '' TERM INT HUP; sleep 1; sleep 61 & echo $! $$ > pid; while :; do sleep 1; done", tmp_path) as parent:
        pids = [int(line) for line in (tmp_path / "pid").read_text().split()]
        parent.kill()
        parent.wait(30)
        assert [asyncio.run(gone(pid)) for pid in pids] == [True, True]


async def test_what_is_printed_is_kept_within_bounds_and_the_last_line_with_it(run, monkeypatch):
    monkeypatch.setattr(processes, "KEPT_BYTES", 1000)
    (result,) = await run(agl.command("yes 123456789 | head -n 100000; echo 0.5"))
    kept = Path(process_of(result).attributes["output"]["stdout"]).read_text()
    assert result.reward == 0.5
    assert len(kept) < 1100
    assert kept.startswith("123456789\n" * 50 + "\n… 999004 bytes are not kept …\n")
    assert kept.endswith("123456789\n0.5\n")


async def test_a_stream_up_to_the_limit_is_kept_whole(run, monkeypatch):
    monkeypatch.setattr(processes, "KEPT_BYTES", 1000)
    (result,) = await run(agl.command("yes 123456789 | head -n 99; echo 0.5"))
    assert Path(process_of(result).attributes["output"]["stdout"]).read_text() == "123456789\n" * 99 + "0.5\n"


# Rewards that a run does not take.


async def test_a_run_that_refuses_rewards_of_the_agents_side_says_so_to_the_program(run, program, server):
    agent = program(
        """
        import urllib.error
        try:
            post(os.environ["AGL_REWARD_URL"], {"value": 1.0})
        except urllib.error.HTTPError as error:
            print(error.code, json.load(error)["error"]["message"])
        """,
        input=lambda task: task,
        reward=lambda task, output: 0.25,
    )
    (result,) = await run(agent, llm=llm(server), takes_rewards=False)
    assert result.output.startswith('403 this run takes no rewards from the agent\'s side (`agent_rewards="refuse"`)')
    assert [(reward.value, reward.source) for reward in result.rewards] == [(0.25, "returned")]


async def test_code_of_the_agent_cannot_emit_a_refused_reward(run):
    def agent(task):
        agl.emit_reward(1.0)

    (result,) = await run(AgentSpec(agent, input=lambda task: task, reward=lambda task, output: 0.5), takes_rewards=False)
    assert (result.failure, result.rewards) == (Failure.REWARD, ())
    assert "takes no rewards from the agent's side" in result.rollout.attempt.error


def test_a_program_that_would_have_no_reward_is_refused():
    with pytest.raises(ConfigError, match="`echo 1` would have no reward"):
        BoundAgent(agl.command("echo 1"), Plugins(), takes_rewards=False)


def test_only_two_words_say_what_becomes_of_the_agents_rewards(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='`agent_rewards` must be "accept" or "refuse", given was \'no\''):
        agl.Trainer(agent_rewards="no")
    (tmp_path / "agl.toml").write_text('[trainer]\nagent_rewards = "refuse"\n')
    monkeypatch.chdir(tmp_path)
    assert not agl.Trainer().takes_rewards
    assert agl.Trainer(agent_rewards="accept").takes_rewards
