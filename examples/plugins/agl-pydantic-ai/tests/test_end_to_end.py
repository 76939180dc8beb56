"""Real agents under a real Trainer, over a scripted endpoint."""

import agl
import msgspec
import pytest
from agl.testing import ScriptedServer

from team import answer, calls_of, make_team, make_trainer, text

TASKS = [{"topic": f"topic number {number}"} for number in range(16)]


class Collecting(agl.Algorithm):
    """An algorithm that learns nothing: it keeps what the last step would learn from, and counts the version up."""

    name = "collecting"

    async def fit(self, run):
        for step in run.steps(2):
            self.groups = await run.rollout(run.train.sample(16), n=2)
            better = msgspec.structs.replace(run.resources["main_llm"], version=str(step + 2))
            await run.publish(metrics={"rollouts": 32}, main_llm=better)


def spec():
    return agl.agent(make_team(), input=lambda task: task["topic"], reward=lambda task, output: float(task["topic"] in output))


def expected(topic):
    call = f'<tool_call>{{"arguments": {{"topic": "{topic}"}}, "name": "write"}}'
    return [("planner", call), ("planner/writer", f"a rhyme on {topic}"), ("planner", f"final: a rhyme on {topic}")]


def test_fit_gets_transitions_with_token_ids_and_roles_from_32_rollouts_at_once(tmp_path):
    algorithm = Collecting()
    with ScriptedServer(answer) as server:
        made = make_trainer(server, tmp_path, algorithm=algorithm, n_runners=32).fit(spec(), TASKS)
    assert made.resources["main_llm"].version == "3"
    assert len(algorithm.groups) == 16
    for group in algorithm.groups:
        for result in group.results:
            assert result.failure is None
            assert calls_of(result) == expected(group.task.data["topic"])
            assert all(
                step.trainable and step.version == "2" and len(step.logprobs) == len(step.response_ids) for step in result.transitions
            )
            first, _, last = result.transitions
            assert last.parent == first.span_id
            assert last.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
            assert group.task.data["topic"] in text(first.prompt_ids)


def test_only_the_named_role_is_trained(tmp_path):
    algorithm = Collecting()
    with ScriptedServer(answer) as server:
        make_trainer(server, tmp_path, algorithm=algorithm, roles={"writer": "train"}).fit(spec(), TASKS[:2])
    trained = [step.role for group in algorithm.groups for result in group.results for step in result.transitions if step.trainable]
    assert set(trained) == {"planner/writer"}


def test_evaluate_gives_the_mean_reward(server, tmp_path):
    assert make_trainer(server, tmp_path).evaluate(spec(), TASKS[:4]).mean == 1.0


def test_dev_shows_runs_calls_and_tools_as_one_tree(server, tmp_path):
    (result,) = make_trainer(server, tmp_path).dev(spec(), TASKS[:1])
    spans = {span.span_id: span for span in result.spans}

    def path(span):
        above = spans.get(span.parent_id)
        return [*(path(above) if above else []), f"{span.kind}:{span.name}"]

    assert ["/".join(path(span)[1:]) for span in sorted(result.spans, key=lambda span: span.started_at)][1:] == [
        "agent:planner",
        "agent:planner/model:chat",
        "agent:planner/model:chat/llm:chat policy",
        "agent:planner/tool:write",
        "agent:planner/tool:write/agent:writer",
        "agent:planner/tool:write/agent:writer/model:chat",
        "agent:planner/tool:write/agent:writer/model:chat/llm:chat policy",
        "agent:planner/model:chat",
        "agent:planner/model:chat/llm:chat policy",
    ]
    (tool,) = [span for span in result.spans if span.kind == "tool"]
    assert tool.attributes["gen_ai.tool.call.arguments"] == {"topic": "topic number 0"}
    assert tool.attributes["gen_ai.tool.call.result"] == "a rhyme on topic number 0"
    assert [span.role for span in result.spans if span.kind == "agent"][:2].count("planner") == 1


def test_a_reward_that_a_tool_emits_belongs_to_the_call_made_last_before_it(server, tmp_path):
    (result,) = make_trainer(server, tmp_path).dev(spec(), TASKS[:1])
    (reward,) = [reward for reward in result.rewards if reward.name == "topic"]
    assert reward.value == pytest.approx(1.4)
    assert reward.span_id in {step.span_id for step in result.transitions if step.role == "planner/writer"}
