"""A room selector as users of Agent Lightning 0.3 have it: a prompt to optimise, a tool, a judge; only the import differs."""

import json
import os

import openai
import pytest
from openai import OpenAI

import agl
from agl.testing import Reply, ScriptedServer

TOOL = {
    "type": "function",
    "function": {
        "name": "free_rooms",
        "description": "Rooms that are free, with their capacity.",
        "parameters": {"type": "object", "properties": {"time": {"type": "string"}}, "required": ["time"]},
    },
}
ROOMS = [{"id": "Alder", "capacity": 4}, {"id": "Birch", "capacity": 10}]
TASKS = [
    {"id": "t1", "task_input": {"time": "10:00", "attendees": 8}, "expected_choice": "Birch"},
    {"id": "t2", "task_input": {"time": "11:00", "attendees": 3}, "expected_choice": "Alder"},
]


def first_prompt() -> agl.PromptTemplate:
    return agl.PromptTemplate(template="Room at {time} for {attendees}?", engine="f-string")


def grade(client, said, expected):
    answer = client.chat.completions.create(
        model="judge-model", messages=[{"role": "user", "content": f"Answer: {said}\nExpected: {expected}"}], temperature=0.0
    )
    return float(answer.choices[0].message.content)


@agl.rollout
def room_selector(task: dict, prompt_template: agl.PromptTemplate) -> float:
    client = OpenAI()
    messages = [{"role": "user", "content": prompt_template.format(**task["task_input"])}]
    first = client.chat.completions.create(model="agent-model", messages=messages, tools=[TOOL]).choices[0].message
    messages.append({"role": "assistant", "tool_calls": [call.model_dump() for call in first.tool_calls]})
    for call in first.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(ROOMS)})
    said = client.chat.completions.create(model="agent-model", messages=messages).choices[0].message.content
    return grade(client, said, task["expected_choice"])


def answer(body):
    """A model that answers as the prompt says, and a judge that compares."""
    last = body["messages"][-1]
    if body["model"] == "judge-model":
        said, expected = (line.partition(": ")[2] for line in last["content"].splitlines())
        return str(float(said == expected))
    if last["role"] == "user":
        return Reply(tool_calls=[("free_rooms", {"time": "10:00"})])
    return "Birch" if " for 8" in body["messages"][0]["content"] else "Alder"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(answer) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.base_url())
        monkeypatch.setenv("OPENAI_API_KEY", "users-key")
        yield running


def test_it_is_trained_on_its_own_endpoint_with_the_prompt_as_the_resource(server):
    half = len(TASKS) // 2
    trainer = agl.Trainer(
        algorithm=agl.Baseline(),
        n_runners=8,
        initial_resources={"prompt_template": first_prompt()},
        adapter=agl.TraceToMessages(),
        quiet=True,
    )
    result = trainer.fit(agent=room_selector, train_dataset=TASKS[:half], val_dataset=TASKS[half:])
    lines = [json.loads(line) for line in (result.directory / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["reward"]) for line in lines] == [("val", 1.0)]
    assert len(server.requests) == 6
    assert {call.headers["authorization"] for call in server.requests} == {"Bearer users-key"}


def test_a_better_prompt_is_published_and_used(server):
    class TwoPrompts(agl.Algorithm):
        """What an optimiser of prompts does, in its smallest form."""

        name = "two-prompts"

        async def fit(self, run):
            prompts = [run.resources["prompt_template"], agl.PromptTemplate(template="At {time}: no room")]
            self.rewards = []
            for prompt in prompts:
                await run.publish(prompt_template=prompt)
                groups = await run.rollout(list(run.train))
                self.rewards.append([group.rewards for group in groups])

    algorithm = TwoPrompts()
    agl.Trainer(algorithm=algorithm, initial_resources={"prompt_template": first_prompt()}, quiet=True).fit(room_selector, TASKS)
    assert algorithm.rewards == [[[1.0], [1.0]], [[0.0], [1.0]]]


async def test_it_is_debugged_by_hand_with_a_runner_and_a_store(server):
    with pytest.warns(DeprecationWarning, match="Trainer.dev"):
        runner = agl.LitAgentRunner[dict](agl.AgentOpsTracer())
    store = agl.InMemoryLightningStore()
    with runner.run_context(agent=room_selector, store=store):
        rollout = await runner.step(TASKS[0], resources={"main_prompt": first_prompt(), "main_llm": server.llm(), "judge": judge(server)})
        spans = await store.query_spans(rollout.rollout_id)
    conversations = agl.TraceToMessages().adapt(spans)
    assert [len(conversation["messages"]) for conversation in conversations] == [2, 4, 2]
    assert conversations[1]["messages"][-1]["content"] == "Birch"
    assert agl.find_final_reward(spans) == 1.0


def judge(server):
    """A resource takes the calls that name its model: the judge's are not sent to the model that is trained."""
    return agl.LLM(endpoint=server.base_url(), model="judge-model")


def test_with_an_llm_as_a_resource_the_judge_keeps_its_model_by_its_name(server):
    resources = {"main_llm": server.llm(), "judge": judge(server), "prompt_template": first_prompt()}
    results = agl.Trainer(initial_resources=resources, quiet=True).dev(room_selector, TASKS)
    assert [result.reward for result in results] == [1.0, 1.0]
    assert sorted(call.body["model"] for call in server.requests) == ["judge-model"] * 2 + ["scripted"] * 4
    assert "users-key" in os.environ["OPENAI_API_KEY"]


def test_the_training_script_of_0_3_runs_with_another_import(server):
    """`room_selector_apo.py`: a client, the sizes of the search, one prompt, and the best one asked for at the end."""
    none_kept = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)  # the client outlives the run's event loop
    client = openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(limits=none_kept))
    sizes = {"val_batch_size": 10, "gradient_batch_size": 4, "beam_width": 2, "branch_factor": 2, "beam_rounds": 2}
    with pytest.warns(DeprecationWarning, match="`_poml_trace` has no effect"):
        algo = agl.APO[dict](client, **sizes, _poml_trace=True)
    trainer = agl.Trainer(
        algorithm=algo,
        n_runners=8,
        initial_resources={"prompt_template": first_prompt()},
        adapter=agl.TraceToMessages(),
        quiet=True,
    )
    trainer.fit(agent=room_selector, train_dataset=TASKS, val_dataset=TASKS)
    assert algo.get_best_prompt().template == first_prompt().template
