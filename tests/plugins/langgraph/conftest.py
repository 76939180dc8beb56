"""What the tests of the LangGraph plugin share."""

import pytest

from agl_langgraph import plugin


@pytest.fixture
def attempts(attempts_of):
    return attempts_of(plugin)


@pytest.fixture
def model(chat_model):
    return chat_model
