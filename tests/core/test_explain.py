"""`agl explain`: each call of a rollout with what was learned from it, or why nothing was."""

import json

import msgspec
import openai
import pytest
from click.testing import CliRunner

import agl
from agl.commands.explain import explain as command
from agl.errors import NotFoundError
from agl.learned import drop_learned, read_learned, write_learned
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import rows_of, transitions_of


class Learner(agl.Algorithm):
    """Weighs what it gets, and says so; learns nothing."""

    name = "learner"

    async def start(self, run):
        return {"prompt": agl.PromptTemplate(template="?")}

    async def fit(self, run):
        for _ in run.steps(1):
            groups = await run.rollout(list(run.train), n=2, strict=False)
            results = [result for group in groups for result in group.results]
            rows = [row for result in results for row in result.rows()]
            rewards = {result.rollout.rollout_id: result.reward for result in results}
            run.learned(rows, [rewards[row.rollout_id] - 0.5 for row in rows], [0.25] * len(rows))
            self.ids = [result.rollout.rollout_id for result in results]
            await run.publish(metrics={})


@agl.rollout
def agent(task, llm, rollout):
    with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:

        def ask(text):
            client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": text}])

        with agl.role("writer"):
            ask("write")
        with agl.role("critic"):
            ask("judge")
    if rollout.sample:
        raise ValueError("mine")
    return 1.0


@pytest.fixture
def told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner = Learner()
    with ScriptedServer("fine") as server:
        trainer = agl.Trainer(
            algorithm=learner, quiet=True, store="s.sqlite", initial_resources={"llm": server.llm()}, roles={"critic": "freeze"}
        )
        trainer.fit(agent, [{"id": "t7"}])

    def explain(which, *options):
        done = CliRunner().invoke(command, [learner.ids[which], "--store", "s.sqlite", *options], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    explain.ids = learner.ids
    return explain


def test_every_call_has_its_place_its_share_and_a_reason(told):
    found = json.loads(told(0, "--json"))
    assert (found["rollout_id"], found["task_id"], found["step"], found["mode"], found["status"]) == (
        told.ids[0],
        "t7",
        1,
        "train",
        "succeeded",
    )
    assert (found["reward"], found["group_rewards"], found["rows"], found["mismatches"]) == (1.0, [1.0, 0.0], 1, {"new": 2})
    writer, critic = found["calls"]
    assert (writer["number"], writer["role"], writer["parent"], writer["reward"]) == (1, "writer", None, 1.0)
    assert (writer["advantage"], writer["weight"], writer["trained"], writer["why"]) == (0.5, 0.25, True, "trained")
    assert writer["sampled_tokens"] > 0 < writer["prompt_tokens"]
    assert (critic["advantage"], critic["weight"], critic["trained"], critic["why"]) == (None, None, False, "role `critic` is frozen")


def test_a_failed_rollout_says_what_its_class_means(told):
    text = told(1)
    assert "attempt 1 of 2: failed (agent: policy `reward`): ValueError: mine" in text
    assert "reward = 0 (from failure)" in text
    assert "role `critic` is frozen" in text


def test_a_reward_that_came_after_the_step_is_shown_as_late(told):
    agl.add_reward("s.sqlite", told.ids[0], 0.2, name="human")
    found = json.loads(told(0, "--json"))
    assert [found["rewards"][index]["name"] for index in found["late"]] == ["human"]
    assert "human = 0.2 (from feedback, late)" in told(0)
    assert "1 rewards came after the rollout was learned from: they are kept, and were not used" in told(0)


def test_a_rollout_without_its_tokens_or_out_of_its_group_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @agl.rollout
    def lost(task, llm):
        with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
            client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "?"}])

    learner = Learner()
    with ScriptedServer([Reply("down", status=500)]) as server:
        agl.Trainer(algorithm=learner, quiet=True, store="s.sqlite", initial_resources={"llm": server.llm()}).fit(lost, [{"id": 0}])
    found = json.loads(CliRunner().invoke(command, [learner.ids[0], "--store", "s.sqlite", "--json"]).output)
    assert (found["attempt"], found["failure"], found["policy"], found["reward"]) == (2, "infrastructure", "retry", None)
    assert [call["why"] for call in found["calls"]] == ["the call failed"]
    assert found["notes"] == ["the endpoint or the worker failed: that says nothing of the agent"]


def test_a_rollout_or_a_store_that_is_not_there_is_said(told):
    assert isinstance(CliRunner().invoke(command, ["ro-none", "--store", "s.sqlite"]).exception, NotFoundError)
    assert isinstance(CliRunner().invoke(command, ["ro-none", "--store", "t.sqlite"]).exception, NotFoundError)


def test_what_was_learned_is_kept_per_step_and_forgotten_with_the_steps_that_are_done_again(tmp_path, make_call):
    spans = [make_call([1], [2], [3]), make_call([1, 3, 9], [4, 5])]
    items = [msgspec.structs.replace(item, reward=1.0) for item in transitions_of(spans)]
    rows = rows_of(items)
    advantages = [[0.0, 0.5], [0.0, -0.25, 0.0, 0.75, 0.75]]
    for step in range(2):
        write_learned(tmp_path, step, rows, advantages, [0.1, 0.2])
    found = read_learned(tmp_path, 1, "ro")
    assert [(call.span_id, call.choice, call.advantage, call.weight, call.tokens) for call in found.calls] == [
        (spans[0].span_id, 0, 0.5, 0.1, 1),
        (spans[0].span_id, 1, -0.25, 0.2, 1),
        (spans[1].span_id, 0, 0.75, 0.2, 2),
    ]
    drop_learned(tmp_path, 1)
    assert read_learned(tmp_path, 1, "ro") is None
    assert read_learned(tmp_path, 0, "ro") is not None
    assert read_learned(tmp_path, 0, "ro-other") is None
