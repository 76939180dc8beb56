"""What must hold of APO with the agents of each framework; the class is derived from in `tests/plugins/<framework>/test_apo.py`.

Two agents work one after the other. The prompt of the first is optimised. The model does what its prompt says, the critic sees what it is sent.
"""

import json

import pytest

import agl
from agl.testing import ScriptedServer
from agl_apo.testing import scripted

WRITER, CHECKER = "You are the writer.", "You are the checker."
REMEDY = "End with an exclamation mark."
TRAIN = [{"id": f"t{n}", "word": f"apple{n}"} for n in range(8)]
VAL = [{"id": f"v{n}", "word": f"pear{n}"} for n in range(6)]


def prompt_of(body):
    """The text of a request that the framework makes of an agent's prompts."""
    return body.get("instructions") or "".join(str(item["content"]) for item in body["messages"] if item["role"] in ("system", "developer"))


class ApoChecks:
    prompt = ""
    """Name of the writer's prompt that is optimised."""
    home = "http://127.0.0.1:9/v1"
    """The agents' own endpoint, where nobody listens unless a test says so."""

    def obey(self, body):
        """The model of both agents."""
        if CHECKER in prompt_of(body):
            return "Fine."
        return "It is done!" if REMEDY in prompt_of(body) else "It is done"

    def make(self):
        """The framework's object with both agents."""
        raise NotImplementedError

    def input(self, task):
        return task["word"]

    def written(self, output):
        """What the writer said."""
        raise NotImplementedError

    def judge(self, task, output):
        good = self.written(output).endswith("!")
        if not good:
            agl.emit_message("no mark in the answer")
        return float(good)

    @pytest.fixture
    def servers(self):
        with ScriptedServer(self.obey) as model, ScriptedServer(scripted({"no mark": REMEDY})) as critic:
            yield model, critic

    def fit(self, servers, folder, own=False, **options):
        model, critic = servers
        sizes = {"max_rollouts": 60, "probe_tasks": 4, "screen_tasks": 4}
        apo = agl.APO(endpoint=critic.base_url(), model="critic", **sizes, **options)
        agent = agl.agent(self.make(), input=self.input, reward=self.judge)
        resources = {} if own else {"main_llm": model.llm()}
        trainer = agl.Trainer(algorithm=apo, initial_resources=resources, store=folder / "store.sqlite", quiet=True, n_runners=4)
        return trainer.fit(agent, TRAIN, VAL)

    def test_the_prompt_changes_what_the_model_gets_and_for_the_right_agent_alone(self, servers, tmp_path):
        before = agl.prompts(agl.agent(self.make()))
        result = self.fit(servers, tmp_path, prompts=[self.prompt])
        assert result.summary().startswith(f"better prompts for ['{self.prompt}']")
        assert result.resources[self.prompt].template == f"{before[self.prompt].template} {REMEDY}"
        model, _ = servers
        writers = [prompt_of(call.body) for call in model.requests if WRITER in prompt_of(call.body)]
        checkers = [prompt_of(call.body) for call in model.requests if CHECKER in prompt_of(call.body)]
        assert len(writers) + len(checkers) == len(model.requests)
        assert {REMEDY in text for text in writers} == {True, False}
        assert len(set(checkers)) == 1
        assert REMEDY not in checkers[0]
        assert agl.prompts(agl.agent(self.make())) == before  # the agent itself is as it was

    def test_the_critic_reads_the_writers_calls_and_not_the_checkers(self, servers, tmp_path):
        self.fit(servers, tmp_path, prompts=[self.prompt])
        _, critic = servers
        asked = [call.body["messages"][0]["content"] for call in critic.requests]
        records = [text for text in asked if "Records that went badly" in text]
        assert records
        assert all("assistant: It is done" in text and "assistant: Fine." not in text for text in records)
        assert all("feedback: no mark in the answer" in text for text in records)

    def test_agents_at_their_own_endpoint_need_no_model(self, servers, tmp_path):
        model, critic = servers
        self.home = model.base_url()
        result = self.fit(servers, tmp_path, own=True, prompts=[self.prompt])
        assert result.summary().startswith(f"better prompts for ['{self.prompt}']")
        assert {call.headers["authorization"] for call in model.requests} == {"Bearer users-key"}
        checkers = {prompt_of(call.body) for call in model.requests if CHECKER in prompt_of(call.body)}
        assert len(checkers) == 1
        assert REMEDY not in checkers.pop()
        records = [text for call in critic.requests if "Records that went badly" in (text := call.body["messages"][0]["content"])]
        assert records
        assert all("assistant: It is done" in text and "assistant: Fine." not in text for text in records)

    def test_without_being_told_it_optimises_every_prompt_that_the_agent_has(self, servers, tmp_path):
        result = self.fit(servers, tmp_path)
        listed = agl.prompts(agl.agent(self.make()))
        told = json.loads((result.directory / "result.json").read_text())["prompts"]
        assert {name: texts["seed"] for name, texts in told.items()} == {name: prompt.template for name, prompt in listed.items()}
