"""APO on an agent of the OpenAI Agents SDK that has another one as a tool."""

import pytest
from agents import Agent, OpenAIChatCompletionsModel
from apo_checks import CHECKER, WRITER, ApoChecks, prompt_of

from agl.testing import Reply


class TestAgents(ApoChecks):
    prompt = "writer.instructions"

    @pytest.fixture(autouse=True)
    def _client(self, client):
        self.client = client

    def obey(self, body):
        if WRITER in prompt_of(body) and body["messages"][-1]["role"] == "user":
            return Reply(None, [("ask_checker", {"input": "Is it right?"})])
        return super().obey(body)

    def make(self):
        model = OpenAIChatCompletionsModel("users-model", self.client(self.home))
        checker = Agent("checker", instructions=CHECKER, model=model)
        return Agent("writer", instructions=WRITER, model=model, tools=[checker.as_tool("ask_checker", "Asks.")])

    def written(self, output):
        return str(output.final_output)
