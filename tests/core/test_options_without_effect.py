"""An option that would have no effect is refused before anything starts, wherever it is given; the same one keeps its effect elsewhere."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import agl
from agl.cli import cli
from agl.errors import ConfigError
from agl.testing.scripted import ScriptedServer

TASKS = [{"id": 0, "q": "what"}]
ELSEWHERE = {"endpoint": "http://127.0.0.1:9/v1", "model": "m"}

BRINGS = """
import agl

class Own(agl.Algorithm):
    name = "own"
    serves = ("main_llm",)

    def __init__(self, url="http://127.0.0.1:9/v1"):
        self.url = url

    async def start(self, run):
        return {"main_llm": agl.LLM(endpoint=self.url, model="policy", version="0")}

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train))
            await run.publish(metrics={"reward": 1.0})

class Prompts(Own):
    name = "prompts"
    serves = ()
    only_prompts = True

@agl.rollout
async def agent(task, resources):
    from openai import AsyncOpenAI
    asked = resources[task.get("llm", "main_llm")]
    async with AsyncOpenAI(base_url=asked.base_url, api_key=asked.api_key) as client:
        answer = await client.chat.completions.create(model=asked.model, messages=[{"role": "user", "content": task["q"]}])
    return float(answer.choices[0].message.content)

def echo(question):
    return question

def own(task, output):
    return 1.0

spec = agl.agent(echo, input=lambda task: task["q"], reward=own)
"""


@pytest.fixture(autouse=True)
def app(tmp_path, monkeypatch, install_package):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGL_RESUME", raising=False)
    install_package("own-dist", {"own": "own_algorithm:Own", "prompts": "own_algorithm:Prompts"}, "agl.algorithms", own_algorithm=BRINGS)
    (tmp_path / "tasks.jsonl").write_text('{"q": "what"}\n')
    (tmp_path / "ask.txt").write_text("Answer.")
    import own_algorithm

    return own_algorithm


def train(*arguments):
    return CliRunner().invoke(cli, ["train", *arguments]).output


# A model beside an algorithm that serves its own.


def test_a_model_that_the_algorithms_own_would_take_the_place_of_is_refused(app):
    trainer = agl.Trainer(algorithm=app.Own(), initial_resources={"main_llm": agl.LLM(**ELSEWHERE)}, quiet=True)
    for start in (lambda: trainer.fit(app.agent, TASKS), lambda: trainer.evaluate(app.agent, TASKS)):
        with pytest.raises(ConfigError, match=r"`initial_resources` has \['main_llm'\], and the algorithm `own` trains and serves its own"):
            start()
    assert not os.path.exists(".agl")


def test_the_same_trainer_may_try_the_agent_with_that_model(app):
    with ScriptedServer("0.5") as server:
        trainer = agl.Trainer(algorithm=app.Own(), initial_resources={"main_llm": server.llm()}, quiet=True)
        assert trainer.dev(app.agent, TASKS)[0].reward == 0.5


def test_another_name_beside_the_algorithms_own_keeps_its_effect(app):
    with ScriptedServer("0.25") as policy, ScriptedServer("0.75") as other:
        algorithm = app.Own(policy.base_url())
        trainer = agl.Trainer(algorithm=algorithm, initial_resources={"judge": other.llm()}, quiet=True)
        trainer.fit(app.agent, [{"id": 0, "q": "a"}, {"id": 1, "q": "b", "llm": "judge"}])
    assert [group.rewards for group in algorithm.groups] == [[0.25], [0.75]]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--endpoint", "http://h/v1", "--model", "m"], "--endpoint and --model say which model the agent calls, and the algorithm `own`"),
        (["--model", "a/policy"], "--model says"),
        (["--endpoint", "http://h/v1"], "--endpoint says"),
    ],
)
def test_the_command_names_its_own_options_and_where_the_trained_model_is_said(options, named):
    said = train("own_algorithm:agent", "--data", "tasks.jsonl", "--algorithm", "own", *options)
    assert named in said
    assert "`--set own.OPTION=VALUE`" in said


def test_an_algorithm_that_serves_no_model_takes_one_from_the_command(app):
    said = train("own_algorithm:agent", "--data", "tasks.jsonl", "--algorithm", "prompts", "--model", "m")
    assert "--endpoint and --model go together" in said


# Options of the Trainer.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"adapter": {"agent_match": "writer"}}, r"`adapter\['agent_match'\]` \(`--agent-match`\)"),
        ({"adapter": {"credit": "discounted"}}, r"`adapter\['credit'\]`"),
        ({"roles": {"writer": "train", "critic": "original"}}, r"of `roles\['writer'\]`:"),
        ({"roles": {"critic": "freeze"}}, r"`roles\['critic'\]`"),
    ],
)
def test_choosing_calls_to_learn_from_is_refused_where_only_prompts_change(app, options, named):
    with pytest.raises(ConfigError, match=f"no effect .*{named}.* the algorithm `prompts` changes prompts alone"):
        agl.Trainer(algorithm=app.Prompts(), quiet=True, **options).fit(app.agent, TASKS)


def test_sending_a_roles_calls_elsewhere_is_allowed_where_only_prompts_change(app):
    with ScriptedServer("0.5") as server:
        trainer = agl.Trainer(algorithm=app.Prompts(server.base_url()), roles={"critic": "original"}, quiet=True)
        assert trainer.fit(app.agent, TASKS).run_id


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_attempts": 5, "failures": {"infrastructure": "exclude"}}, "`max_attempts=5` has no effect: none of `failures` is `retry`"),
        ({"failure_reward": -1.0, "failures": {"agent": "exclude", "timeout": 0.0}}, "`failure_reward=-1.0` has no effect"),
        ({"failure_reward": None, "failures": {"agent": "retry", "timeout": "retry"}}, "`failure_reward=None` has no effect"),
    ],
)
def test_attempts_and_failure_rewards_that_no_policy_uses_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        agl.Trainer(quiet=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 1, "failures": {"infrastructure": "exclude"}},
        {"max_attempts": 5, "failures": {"infrastructure": "exclude", "agent": "retry"}},
        {"failure_reward": -1.0, "failures": {"agent": "exclude", "truncated": "exclude"}},  # a timeout still gets it
    ],
)
def test_those_that_some_policy_uses_are_taken(options):
    trainer = agl.Trainer(quiet=True, **options)
    assert {name: getattr(trainer, name) for name in options} == options


def test_a_dry_run_cannot_resume(app):
    with pytest.raises(ConfigError, match="a dry run starts nothing, so that `resume` has no effect"):
        agl.Trainer(algorithm=app.Own(), quiet=True).fit(app.agent, TASKS, resume=True, dry_run=True)


def test_an_output_function_for_an_agent_that_returns_its_reward_is_refused(app):
    with pytest.raises(ConfigError, match=r"returns its reward, so that `output=` has nothing to change; leave it out"):
        agl.Trainer(algorithm=app.Own(), quiet=True).fit(agl.agent(app.agent, output=str), TASKS)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("algorithms.onw", "did you mean `own`"),
        ("rewards.llm_juge", "did you mean `llm_judge`"),
        ("algorithms.zzz", "take the section out"),
    ],
)
def test_settings_of_an_algorithm_or_reward_that_there_is_not_are_refused(section, named):
    Path("agl.toml").write_text(f"[{section}]\nsize = 1\n")
    with pytest.raises(ConfigError, match=rf"agl.toml has options in \[{section}\], .*{named}"):
        agl.Trainer(quiet=True)
    from agl.commands.doctor import doctor

    done = CliRunner().invoke(doctor)
    assert re.search(rf"^fail +agl.toml .*{section}", done.output, re.MULTILINE)
    assert done.exit_code == 1


@pytest.mark.parametrize("section", ["algorithms.own", "algorithms.verl", "rewards.llm_judge"])
def test_settings_of_what_is_installed_or_could_be_are_taken(section):
    Path("agl.toml").write_text(f"[{section}]\nsize = 1\n")
    assert agl.Trainer(quiet=True).algorithm is None


# Options of the commands.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "own.url=x"], "--set would have no effect"),
        (["--data", "tasks.jsonl", "--algorithm", "own"], "--data, --algorithm would have no effect"),
        (["--seed", "3"], "--seed would have no effect"),
    ],
)
def test_options_beside_a_bare_resume_are_refused(options, named):
    assert named in train("--resume", *options)


def test_a_bare_resume_takes_the_store():
    assert "there is no store `other.sqlite`" in train("--resume", "--store", "other.sqlite")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "own.url=x", "--set", "own.url=y"], "`--set own.url` is given twice, as `x` and as `y`"),
        (["--prompt", "p=ask.txt", "--prompt", "p=ask.txt"], "there is a resource `p` already"),
        (["--prompt", "main_llm=ask.txt", "--endpoint", "http://h/v1", "--model", "m"], "there is a resource `main_llm` already"),
    ],
)
def test_what_would_be_overwritten_is_refused(options, named):
    algorithm = "own" if options[0] == "--set" else "prompts"
    assert named in train("own_algorithm:agent", "--data", "tasks.jsonl", "--algorithm", algorithm, *options)


def test_the_commands_functions_fill_what_an_agent_has_not_and_replace_nothing(app):
    from agl.cli import _agent

    app.bare = agl.agent(app.echo, output=str, name="mine")
    found = _agent("own_algorithm:bare", {"reward": "own_algorithm:own"})
    assert (found.agent, found.name, found.output, found.reward) == (app.echo, "mine", str, app.own)
    with pytest.raises(ConfigError, match=r"`own_algorithm:spec` is an `agl.agent\(…\)` that has its own reward; leave --reward out"):
        _agent("own_algorithm:spec", {"reward": "own_algorithm:own"})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--hooks", "new", "x"], "--hooks are for the list of plugins, not for `new`"),
        (["--hooks", "--traceback"], "--traceback has no effect beside --hooks"),
        (["--json", "--traceback"], "--traceback has no effect beside --json"),
    ],
)
def test_options_of_the_list_of_plugins_are_refused_where_they_show_nothing(options, named):
    from agl.commands.plugins import plugins

    assert named in CliRunner().invoke(plugins, options).output
