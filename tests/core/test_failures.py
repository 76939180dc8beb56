"""Each class of failure has a policy that the configuration can change."""

import itertools

import openai
import pytest

import agl
from agl.errors import ConfigError
from agl.failures import read_policies
from agl.rollouts import Failure
from agl.testing.scripted import Reply, ScriptedServer


class Once(agl.Algorithm):
    name = "once"

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="?")}

    async def fit(self, run):
        for _ in run.steps(1):
            self.groups = await run.rollout(list(run.train), strict=False)
            await run.publish(metrics={})


@pytest.fixture
def one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(agent, *, server=None, **options):
        once = Once()
        resources = {"llm": server.llm()} if server else None
        agl.Trainer(algorithm=once, quiet=True, initial_resources=resources, **options).fit(agent, [{"id": 0}])
        return once.groups[0].results[0]

    return run


def failing():
    numbers = itertools.count(1)

    @agl.rollout
    def agent(task):
        agl.emit_reward(0.5)
        if next(numbers) < 3:
            raise ValueError("mine")
        return 1.0

    return agent


@pytest.mark.parametrize(
    ("policy", "attempts", "reward"),
    [("reward", 1, 0.5), ("exclude", 1, None), ("retry", 2, None), (-1.0, 1, -1.0)],
)
def test_an_agents_failure_is_learned_from_excluded_tried_again_or_has_the_number_said(one, policy, attempts, reward):
    result = one(failing(), failures={"agent": policy})
    assert (result.failure, result.rollout.attempt.number, result.reward) == (Failure.AGENT, attempts, reward)


def test_a_failure_that_is_tried_again_may_succeed(one):
    result = one(failing(), failures={"agent": "retry"}, max_attempts=3)
    assert (result.failure, result.rollout.attempt.number, result.reward) == (None, 3, 1.0)


def test_an_infrastructure_failure_is_not_tried_again_when_it_is_to_be_excluded(one):
    @agl.rollout
    def agent(task, llm):
        with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
            client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "?"}])

    with ScriptedServer([Reply("down", status=500)]) as server:
        result = one(agent, server=server, failures={"infrastructure": "exclude"})
    assert (result.failure, result.rollout.attempt.number, result.reward) == (Failure.INFRASTRUCTURE, 1, None)


@pytest.mark.parametrize(
    ("policy", "failure", "attempts", "reward"),
    [(None, None, 1, 1.0), ("exclude", Failure.TRUNCATED, 1, None), ("retry", None, 2, 1.0), (-0.5, Failure.TRUNCATED, 1, -0.5)],
)
def test_an_answer_cut_at_its_limit_is_data_unless_asked_otherwise(one, policy, failure, attempts, reward):
    @agl.rollout
    def agent(task, llm):
        with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
            client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "?"}])
        return 1.0

    with ScriptedServer([Reply("abc", finish_reason="length"), "abc"]) as server:
        result = one(agent, server=server, **({} if policy is None else {"failures": {"truncated": policy}}))
    assert (result.failure, result.rollout.attempt.number, result.reward) == (failure, attempts, reward)
    if failure is not None:
        assert result.rollout.attempt.error == "1 answers were cut at their token limit (`max_tokens`)"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("exclude", "must be policies by class"),
        ({"agents": "retry"}, r"has the classes \['agent', 'infrastructure', 'timeout', 'truncated'\], given was 'agents'"),
        ({"cancelled": "reward"}, "what is stopped from outside is always excluded"),
        ({"reward": "retry"}, "a missing reward is always missing"),
        ({"infrastructure": "reward"}, r"must be one of \['retry', 'exclude'\]; it says nothing of the agent"),
        ({"infrastructure": 0.0}, r"must be one of \['retry', 'exclude'\]"),
        ({"timeout": "again"}, r"must be one of \['retry', 'exclude', 'reward'\] or a number, given was 'again'"),
        ({"timeout": float("nan")}, "given was nan"),
        ({"timeout": True}, "given was True"),
    ],
)
def test_what_cannot_work_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        read_policies(given, 2)


def test_a_retry_without_attempts_is_refused_and_defaults_are_no_change():
    with pytest.raises(ConfigError, match="`max_attempts` is 1, so that nothing is tried again"):
        read_policies({"timeout": "retry"}, 1)
    assert read_policies({"infrastructure": "retry", "agent": "reward", "timeout": "exclude"}, 1) == {"timeout": "exclude"}


def test_the_settings_may_say_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text('[trainer]\nreward_timeout = 5.0\nfailures = {timeout = "exclude", truncated = -1.0}\n')
    trainer = agl.Trainer(quiet=True)
    assert (trainer.failures, trainer.reward_timeout) == ({"timeout": "exclude", "truncated": -1.0}, 5.0)
    assert agl.Trainer(quiet=True, failures={}, reward_timeout=1.0).failures == {}
    with pytest.raises(ConfigError, match="`reward_timeout` must be positive seconds"):
        agl.Trainer(quiet=True, reward_timeout=0.0)
