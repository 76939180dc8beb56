"""What must hold of the math agent in each framework; the class is derived from in `tests/plugins/<framework>/test_math_agent.py`.

Every framework runs in an environment of its own. So the transitions of all four are compared with the same expected ones, written here.
"""

import json
import os
import re
import sys
from pathlib import Path

import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "math_agent"))

import agl
from agl.testing import Reply, ScriptedServer
from agl.testing.toy_tokens import END, ROLES, call_text, logprob_of

TASK = {"question": "Ann buys 3 pens at 14 euros each and a bag for 9 euros. How many euros is that?", "answer": 51}
CONVERSATIONS = {
    "right": (["3 * 14", "42 + 9"], ["42", "51"], "The answer is 51", 1.0),
    "stops early": (["3 * 14"], ["42"], "The answer is 42", 0.0),
    "corrects itself": (["3 x 14", "3 * 14 + 9"], ["Error: not arithmetic", "51"], "The answer is 51.0", 1.0),
    "guesses": ([], [], "The answer is 50", 0.0),
}
"""Expressions that the model asks for, what the calculator says, the last answer, the reward."""


class MathAgentChecks:
    framework = ""
    prompt = ""
    """Name of a prompt that stands in the system message."""

    @pytest.fixture
    def agent(self, monkeypatch):
        # The agent's client outlives each run's event loop: a connection that it kept could no longer be closed.
        none_kept = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
        monkeypatch.setattr("openai._base_client.DEFAULT_CONNECTION_LIMITS", none_kept)
        monkeypatch.setenv("LANGCHAIN_OPENAI_TCP_KEEPALIVE", "0")  # LangChain would set limits of its own
        from frameworks import FRAMEWORKS

        return FRAMEWORKS[self.framework]()

    @pytest.mark.parametrize("name", CONVERSATIONS)
    def test_its_transitions_are_those_of_the_other_frameworks_but_for_the_prompt(self, agent, name, tmp_path):
        calls, results, answer, reward = CONVERSATIONS[name]
        result, _ = run(agent, script(calls, answer), tmp_path)
        assert normalised(result) == expected(calls, results, answer, reward)

    def test_the_question_and_the_tool_reach_the_model(self, agent, tmp_path):
        _, (request,) = run(agent, ["The answer is 1"], tmp_path)
        assert [message["role"] for message in request["messages"]] == ["system", "user"]
        assert TASK["question"] in request["messages"][1]["content"]
        (tool,) = request["tools"]
        assert (tool["function"]["name"], tool["function"]["parameters"]["required"]) == ("calculator", ["expression"])

    def test_the_answer_never_reaches_the_model(self, agent, tmp_path):
        _, requests = run(agent, script(["1 + 1"], "no idea"), tmp_path)
        assert str(TASK["answer"]) not in json.dumps(requests)

    def test_a_prompt_put_in_as_a_resource_reaches_the_model_and_only_there(self, agent, tmp_path):
        assert self.prompt in agl.prompts(agent)
        text = "Count on your fingers."
        _, (changed,) = run(agent, ["The answer is 1"], tmp_path, **{self.prompt: agl.PromptTemplate(template=text)})
        _, (plain,) = run(agent, ["The answer is 1"], tmp_path)
        assert text in changed["messages"][0]["content"]
        assert text not in json.dumps(plain)
        assert changed["messages"][1:] == plain["messages"][1:]

    @pytest.mark.skipif(os.environ.get("AGL_TEST_VERSIONS") == "oldest", reason="the model was made from what the newest frameworks send")
    def test_the_embedded_model_was_made_from_what_it_sends(self, agent):
        from record_shapes import SHAPES, record

        kept = (SHAPES / f"{self.framework}.json").read_text()
        assert without_versions(json.dumps(record(agent))) == without_versions(json.dumps(json.loads(kept)))


def run(agent, answers, folder, **resources):
    """One rollout against a scripted model: its result, and the requests as they came."""
    with ScriptedServer(answers) as server:
        llm = {"main_llm": server.llm()}
        trainer = agl.Trainer(initial_resources={**llm, **resources}, store=folder / "store.sqlite", quiet=True)
        (result,) = trainer.dev(agent, [TASK])
        return result, [request.body for request in server.requests]


def script(calls, answer):
    return [*(Reply(tool_calls=[("calculator", {"expression": expression})]) for expression in calls), answer]


def normalised(result):
    """The transitions without the framework's own prompt and the names of its agents, and the reward."""
    first = result.transitions[0].prompt_ids
    number = {call.span_id: index for index, call in enumerate(result.transitions)}
    assert {call.prompt_ids[: len(first)] for call in result.transitions} == {first}
    return result.reward, [
        {
            "role": call.role.rpartition("/")[2],
            "goes on from": number.get(call.parent),
            "state": list(call.prompt_ids[len(first) :]),
            "action": list(call.response_ids),
            "logprobs": list(call.logprobs),
            "finish": call.finish_reason,
            "reward": call.reward,
            "learned from": call.trainable,
        }
        for call in result.transitions
    ]


def expected(calls, results, answer, reward):
    said = [*(call_text("calculator", {"expression": expression}) for expression in calls), answer]
    found, state = [], []
    for index, text in enumerate(said):
        action = [*text.encode(), END]
        found.append(
            {
                "role": "solver",
                "goes on from": index - 1 if index else None,
                "state": list(state),
                "action": action,
                "logprobs": [logprob_of(token) for token in action],
                "finish": "tool_calls" if index < len(calls) else "stop",
                "reward": reward,
                "learned from": True,
            }
        )
        if index < len(calls):
            state += [*action, ROLES["tool"], *results[index].encode(), END, ROLES["assistant"]]
    return reward, found


def without_versions(text):
    return re.sub(r"errors\.pydantic\.dev/[\d.]+", "errors.pydantic.dev", text)
