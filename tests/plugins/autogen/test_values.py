"""What spans hold of messages and results is JSON, bounded, and without secrets."""

import json

from autogen_agentchat.base import TaskResult
from autogen_agentchat.messages import HandoffMessage, TextMessage, ToolCallRequestEvent
from autogen_core import FunctionCall

from agl.values import ITEMS, TOTAL
from agl_autogen._values import told


def test_a_message_is_who_said_what():
    assert told(TextMessage(content="hi", source="user")) == {"type": "TextMessage", "source": "user", "content": "hi"}


def test_a_handoff_has_its_target():
    assert told(HandoffMessage(content="go on", source="alice", target="bob"))["target"] == "bob"


def test_a_tool_request_has_its_calls():
    event = ToolCallRequestEvent(content=[FunctionCall(id="c1", name="add", arguments="{}")], source="alice")
    assert told(event)["content"] == [{"id": "c1", "name": "add", "arguments": "{}"}]


def test_a_result_has_its_messages_and_why_it_stopped():
    result = TaskResult(messages=[TextMessage(content="hi", source="user")], stop_reason="enough")
    assert told(result) == {"messages": [{"type": "TextMessage", "source": "user", "content": "hi"}], "stop_reason": "enough"}


def test_json_stays_as_it_is():
    value = {"a": [1, 2.5, True, None, "text"]}
    assert told(value) == value


def test_a_long_conversation_is_cut_and_says_so():
    shown = told([TextMessage(content="hi", source="user") for _ in range(ITEMS + 10)])
    assert len(shown) == ITEMS + 1
    assert len(json.dumps(told([TextMessage(content="x" * 1000, source="user")] * 20))) < 2 * TOTAL


def test_secrets_are_left_out():
    assert told(TextMessage(content="use sk-abcdefghijklmnopqrst", source="user"))["content"] == "use ***"
    assert told({"api_key": "very secret"}) == {"api_key": "***"}
