"""The Messages dialect: what becomes of a request, what its answer holds, what is refused."""

import anthropic
import pytest

from agl.gateway.dialects.messages import Messages
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import transitions_of

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def chat_of(memory=None, **asked):
    return Messages().read({"model": "m", "max_tokens": 9, "messages": [USER], **asked}, memory or Memory()).chat


def messages_of(*messages, memory=None, **asked):
    return chat_of(memory, messages=[*messages, USER], **asked)["messages"][:-1]


def use(call_id="a", given=None):
    return {"type": "tool_use", "id": call_id, "name": "add", "input": given or {}}


def call(call_id="a", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": "add", "arguments": arguments}}


# Requests.


@pytest.mark.parametrize("system", ["Be brief.\nBe kind.", [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]])
def test_the_system_is_one_message(system):
    assert chat_of(system=system)["messages"][0] == {"role": "system", "content": "Be brief.\nBe kind."}


def test_thinking_text_and_tool_uses_are_one_message():
    blocks = [
        {"type": "thinking", "thinking": "a sum", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "let me "},
        {"type": "text", "text": "add", "cache_control": {"type": "ephemeral"}},
        use("a", {"x": 1}),
        use("b"),
    ]
    (message,) = messages_of({"role": "assistant", "content": blocks})
    assert message == {
        "role": "assistant",
        "content": "let me add",
        "reasoning_content": "a sum",
        "tool_calls": [call("a", '{"x":1}'), call("b")],
    }


def test_arguments_go_back_as_the_model_wrote_them():
    memory = Memory()
    memory.arguments = {"a": '{ "x":1 }', "b": "{not json", "c": '{"x": 1}'}
    said = [use("a", {"x": 1}), use("b", {"INVALID_JSON": "{not json"}), use("c", {"x": 2}), use("d", {"INVALID_JSON": "{x"})]
    (message,) = messages_of({"role": "assistant", "content": said}, memory=memory)
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{ "x":1 }', "{not json", '{"x":2}', "{x"]


def test_tool_results_come_before_what_the_user_says_with_them():
    source = {"type": "base64", "media_type": "image/png", "data": "AA"}
    blocks = [
        {"type": "tool_result", "tool_use_id": "a", "content": "2"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "4"}, {"type": "image", "source": source}]},
        {"type": "tool_result", "tool_use_id": "c"},
        {"type": "text", "text": "and?"},
    ]
    assert messages_of({"role": "user", "content": blocks}) == [
        {"role": "tool", "tool_call_id": "a", "content": "2"},
        {"role": "tool", "tool_call_id": "b", "content": "4"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, {"type": "text", "text": "and?"}],
        },
    ]


def test_images_and_documents_keep_their_form():
    blocks = [
        {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "long"}},
        {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}},
    ]
    assert messages_of({"role": "user", "content": blocks})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "text", "text": "long"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
    ]


def test_options_are_put_in_the_words_of_chat_completions():
    schema = {"type": "object"}
    given = {
        "stop_sequences": ["\n"],
        "temperature": 0.5,
        "top_k": 4,
        "metadata": {"user_id": "u"},
        "stream": True,
        "thinking": {"type": "adaptive"},
    }
    given |= {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    given |= {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}}
    chat = chat_of(**given)
    del chat["messages"]
    assert chat == {
        "model": "m",
        "max_completion_tokens": 9,
        "stop": ["\n"],
        "temperature": 0.5,
        "top_k": 4,
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [FUNCTION],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": True}},
    }


@pytest.mark.parametrize(
    ("choice", "becomes"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_choices_of_a_tool_are_put_in_the_words_of_chat_completions(choice, becomes):
    assert chat_of(tools=[TOOL], tool_choice=choice)["tool_choice"] == becomes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "is a tool that Anthropic defines or runs"),
        ({"messages": [USER, {"role": "assistant", "content": "I"}]}, "the last message is the assistant's"),
        ({"mcp_servers": [{"name": "x"}]}, "`mcp_servers`"),
        ({"n": 2}, "an answer of this API is one"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
            "of the type `file`",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "`search_result` has no form"),
    ],
)
def test_what_chat_completions_have_nothing_for_is_refused_by_name_and_is_not_the_agents_failure(change, says):
    with pytest.raises(Problem, match=says) as caught:
        chat_of(**change)
    assert (caught.value.status, caught.value.infrastructure) == (400, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": None}, "`max_tokens` must be a whole number"),
        ({"messages": []}, "`messages` must be a list with at least one message"),
        ({"messages": "hi"}, "`messages` must be a list"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"`messages\[0\]\.role` must be"),
        ({"messages": [{"role": "user", "content": 5}]}, r"`messages\[0\]\.content` must be a text or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"`messages\[0\]\.content\[0\]\.text` must be a text"),
        ({"tools": [{"name": "add"}]}, r"`tools\[0\]\.input_schema` must be an object"),
        ({"tools": [TOOL], "tool_choice": {"type": "all"}}, r"`tool_choice\.type` must be one of"),
        ({"system": 5}, "`system` must be a list"),
    ],
)
def test_what_has_another_form_is_refused_with_its_place(change, says):
    with pytest.raises(Problem, match=says) as caught:
        chat_of(**change)
    assert (caught.value.status, caught.value.infrastructure) == (400, False)


# Answers.


@pytest.fixture
def client_of():
    def make(desk):
        return anthropic.AsyncAnthropic(base_url=desk.llm.base_url.removesuffix("/v1"), api_key=desk.llm.api_key, max_retries=0)

    return make


async def ask(client, stream, **given):
    body = {"model": "m", "max_tokens": 500, "messages": [USER], **given}
    if not stream:
        return await client.messages.create(**body)
    async with client.messages.stream(**body) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reply", "given", "stopped"),
    [
        (Reply("far too long"), {"max_tokens": 3}, "max_tokens"),
        (Reply(tool_calls=[("add", {})]), {"tools": [TOOL]}, "tool_use"),
        (Reply(tool_calls=[("add", {})], finish_reason="stop"), {"tools": [TOOL]}, "tool_use"),
        (Reply("no", finish_reason="content_filter"), {}, "refusal"),
        (Reply("yes"), {}, "end_turn"),
    ],
)
async def test_why_an_answer_ended_is_told_in_the_words_of_messages(open_desk, client_of, stream, reply, given, stopped):
    async with ScriptedServer(lambda body: reply) as server:
        desk = await open_desk(server)
        async with client_of(desk) as client:
            message = await ask(client, stream, **given)
    assert (message.stop_reason, message.stop_sequence) == (stopped, None)
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_the_stop_text_that_was_met_is_told_where_the_endpoint_tells_it():
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "stop_reason": "\n"}
    reading = Messages().read({"max_tokens": 9, "messages": [USER]}, Memory())
    told = reading.answer({"choices": [choice]}, "s")
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_is_a_block_of_its_own_and_goes_back_as_reasoning(open_desk, client_of, stream, thinking):
    async with ScriptedServer("42") as server:
        desk = await open_desk(server)
        async with client_of(desk) as client:
            message = await ask(client, stream)
            await ask(client, stream, messages=[USER, {"role": "assistant", "content": message.content}, USER])
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert server.requests[1].body["messages"][1] == {"role": "assistant", "content": "42", "reasoning_content": "let me think"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_with_tools_goes_on_token_by_token(open_desk, client_of, stream):
    async with ScriptedServer([Reply(tool_calls=[("add", {"a": 1})]), "2"]) as server:
        desk = await open_desk(server)
        async with client_of(desk) as client:
            message = await ask(client, stream, tools=[TOOL])
            (used,) = message.content
            result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used.id, "content": "2"}]}
            await ask(client, stream, tools=[TOOL], messages=[USER, {"role": "assistant", "content": message.content}, result])
    first, second = transitions_of(await desk.spans())
    assert second.parent == first.span_id


async def test_tokens_are_counted_by_the_engine_or_it_is_said_that_it_cannot(open_desk, client_of, monkeypatch):
    async with ScriptedServer() as server:
        desk = await open_desk(server)
        async with client_of(desk) as client:
            with pytest.raises(anthropic.NotFoundError, match="does not count tokens"):
                await client.messages.count_tokens(model="m", messages=[USER])
            assert server.requests[-1].path == "/tokenize"
            monkeypatch.setattr(
                "agl.testing.dialects.chat.Completions.answer", lambda self, number, body, *_: {"count": len(body["messages"])}
            )
            assert (await client.messages.count_tokens(model="m", messages=[USER], system="Be brief.")).input_tokens == 2
    assert await desk.spans() == ()
