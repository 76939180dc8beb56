"""APO on an AutoGen team of two agents."""

import openai
import pytest
from apo_checks import CHECKER, WRITER, ApoChecks
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat


@pytest.mark.filterwarnings("ignore:Resolved model mismatch")
class TestTeam(ApoChecks):
    prompt = "RoundRobinGroupChat/writer.system_prompt"

    @pytest.fixture(autouse=True)
    def _client(self, plain_client, monkeypatch):
        # The client outlives each run's event loop: a connection that it kept could no longer be closed.
        none_kept = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
        monkeypatch.setattr("openai._base_client.DEFAULT_CONNECTION_LIMITS", none_kept)
        self.client = plain_client

    def make(self):
        members = [
            AssistantAgent(name, self.client(self.home), system_message=text) for name, text in (("writer", WRITER), ("checker", CHECKER))
        ]
        return RoundRobinGroupChat(members, max_turns=2)

    def written(self, output):
        return next(message.content for message in output.messages if message.source == "writer")
