"""Fixtures of all tests."""

import pytest
from agl.testing import ScriptedServer

from agl_pydantic_ai import plugin
from team import answer


@pytest.fixture
def server():
    with ScriptedServer(answer) as running:
        yield running


@pytest.fixture(autouse=True)
def _users_own(monkeypatch):
    """Keys that open nothing; the framework as it was, after each test."""
    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "users-key")
    yield
    plugin.uninstall()
