"""What the tests of the OpenAI Agents SDK plugin share: the user's clients.

They run in the plugin's own environment: `make test-plugins PLUGINS=openai_agents`.
"""

import agents
import openai
import pytest

from agl_openai_agents import plugin

agents.set_trace_processors([])  # nothing is sent to OpenAI; as a user does it


@pytest.fixture
def attempts(attempts_of, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return attempts_of(plugin)


@pytest.fixture
async def client():
    """Makes the user's clients; their endpoint does not exist unless a test names one. They keep no connections."""
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    made = []

    def make(base_url="http://127.0.0.1:9/v1", **options):
        http = openai.DefaultAsyncHttpxClient(limits=limits, verify=False)
        made.append(openai.AsyncOpenAI(base_url=base_url, api_key="users-key", http_client=http, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
