"""What the tests of the AutoGen plugin share: the user's model clients."""

import asyncio

import pytest
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agl.builtin import openai_sdk
from agl.context import ContextExecutor
from agl_autogen import plugin

INFO = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}


@pytest.fixture
def attempts(attempts_of):
    return attempts_of(plugin)


@pytest.fixture(autouse=True)
def originals():
    """Each test starts from the libraries' own methods."""
    yield
    plugin.uninstall()
    openai_sdk.uninstall()


def make_client(base_url="http://127.0.0.1:9/v1", **options):
    return OpenAIChatCompletionClient(model="users-model", base_url=base_url, api_key="users-key", model_info=INFO, **options)


@pytest.fixture
async def client():
    """Makes the user's model clients, whose endpoint does not exist unless a test names one; in a loop as AGL's own is."""
    asyncio.get_running_loop().set_default_executor(ContextExecutor())
    made = []

    def make(*args, **options):
        made.append(make_client(*args, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def plain_client():
    """The same for tests that start no loop of their own; a client that nobody has asked anything holds no connection."""
    return make_client
