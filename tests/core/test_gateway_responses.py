"""The Responses dialect: what becomes of a request, what is kept between requests, what is refused."""

import pytest

from agl.gateway.dialects.responses import Responses
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import transitions_of

FUNCTION = {"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": {name: value for name, value in FUNCTION.items() if name != "type"}}


def chat_of(memory=None, **asked):
    return Responses().read({"model": "m", "input": "hi", **asked}, memory or Memory()).chat


def messages_of(*items, **asked):
    return chat_of(input=list(items), **asked)["messages"]


def called(call_id, name="add", arguments="{}"):
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def call(call_id, name="add", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# Items.


def test_instructions_come_first_as_the_systems_message():
    assert chat_of(instructions="Be brief.")["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def test_what_the_model_said_in_one_turn_is_one_message():
    items = [
        {"role": "user", "content": "1 + 1, 2 + 2?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "two sums"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "let me "}, {"type": "output_text", "text": "add"}],
        },
        called("a", arguments='{"x": 1}'),
        called("b"),
        {"type": "function_call_output", "call_id": "a", "output": "2"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "4"}]},
        {"type": "message", "role": "assistant", "content": "2 and 4"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no more"}]},
        {"role": "developer", "content": "Go on."},
    ]
    assert messages_of(*items) == [
        {"role": "user", "content": "1 + 1, 2 + 2?"},
        {
            "role": "assistant",
            "content": "let me add",
            "reasoning_content": "two sums",
            "tool_calls": [call("a", arguments='{"x": 1}'), call("b")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "2"},
        {"role": "tool", "tool_call_id": "b", "content": "4"},
        {"role": "assistant", "content": "2 and 4"},
        {"role": "assistant", "content": None, "refusal": "no more"},
        {"role": "developer", "content": "Go on."},
    ]


def test_reasoning_may_be_told_by_its_summary_and_unreadable_reasoning_is_left_out():
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sums"}]}
    assert messages_of(summary, called("a"))[0]["reasoning_content"] == "sums"
    assert "reasoning_content" not in messages_of({"type": "reasoning", "summary": [], "encrypted_content": "x"}, called("a"))[0]


def test_images_files_and_sounds_keep_their_form():
    parts = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert messages_of({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def test_images_of_tool_outputs_follow_all_outputs_in_a_message_of_the_user():
    image = {"type": "input_image", "image_url": "http://x/y.png"}
    outputs = [{"type": "function_call_output", "call_id": name, "output": [{"type": "input_text", "text": name}, image]} for name in "ab"]
    shown = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    assert messages_of(*outputs, {"role": "user", "content": "which?"}) == [
        {"role": "tool", "tool_call_id": "a", "content": "a"},
        {"role": "tool", "tool_call_id": "b", "content": "b"},
        {"role": "user", "content": [shown, shown]},
        {"role": "user", "content": "which?"},
    ]


# Options.


def test_tools_choices_and_sampling_are_put_in_the_words_of_chat_completions():
    given = {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "add"}, "parallel_tool_calls": False}
    given |= {"max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9, "reasoning": {"effort": "low", "summary": "auto"}}
    given |= {"text": {"verbosity": "low"}, "include": ["message.output_text.logprobs"], "top_logprobs": 2, "user": "u", "stream": True}
    chat = chat_of(**given, store=False, truncation="disabled", seed=3)
    del chat["messages"]
    assert chat == {
        "model": "m",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 3,
    }


def test_a_choice_among_no_tools_is_left_out():
    assert {"tools", "tool_choice", "parallel_tool_calls"}.isdisjoint(chat_of(tools=[], tool_choice="auto", parallel_tool_calls=True))


def test_tools_that_are_allowed_are_named_as_chat_completions_name_them():
    chosen = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert chat_of(tools=[FUNCTION], tool_choice=chosen)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": tools},
    }


def test_the_form_of_the_text_becomes_the_response_format():
    schema = {"name": "sum", "schema": {"type": "object"}, "strict": True}
    assert chat_of(text={"format": {"type": "json_schema", **schema}})["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert chat_of(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat_of(text={"format": {"type": "text"}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, r"`tools\[0\]`: `web_search` is a tool that OpenAI's servers run"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "`file_search` is a tool"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "web_search"}}, "is no choice of a function"),
        ({"background": True}, "`background`"),
        ({"n": 2}, "an answer of this API is one"),
        ({"prompt": {"id": "pmpt_1"}}, "stored prompts"),
        ({"truncation": "auto"}, "the history is never cut"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, r"`input\[0\].type`: `web_search_call` has no form"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "`input_image` like this has no form"),
        ({"previous_response_id": "resp_of_another"}, "no response `resp_of_another`: only what was made in the attempt itself"),
        ({"conversation": "conv_1"}, "no conversation `conv_1`"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "no item `msg_1`"),
    ],
)
def test_what_chat_completions_have_nothing_for_is_refused_by_name_and_is_not_the_agents_failure(change, says):
    with pytest.raises(Problem, match=says) as caught:
        chat_of(**change)
    assert (caught.value.status, caught.value.infrastructure) == (400, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": None}, "`input` is needed"),
        ({"input": 5}, "`input` must be a list, given was 5"),
        ({"messages": []}, "this API takes `input`"),
        ({"input": ["hi"]}, r"`input\[0\]` must be an object"),
        ({"input": [{"role": "king", "content": "x"}]}, r"`input\[0\]\.role` must be one of"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, r"`input\[0\]\.content\[0\]\.text` must be a text"),
        ({"input": [{**called("a"), "arguments": {}}]}, r"`input\[0\]\.arguments` must be a text"),
        ({"tools": "all"}, "`tools` must be a list"),
        ({"tools": [{"type": "function"}]}, r"`tools\[0\]\.name` must be a text"),
        ({"text": {"format": {"type": "xml"}}}, r"`text\.format\.type` must be one of"),
        ({"instructions": 5}, "`instructions` must be a text"),
    ],
)
def test_what_has_another_form_is_refused_with_its_place(change, says):
    with pytest.raises(Problem, match=says) as caught:
        chat_of(**change)
    assert (caught.value.status, caught.value.infrastructure) == (400, False)


# What is kept.


@pytest.fixture
async def desk(open_desk):
    async with ScriptedServer(lambda body: f"answer {len(body['messages'])}") as server:
        desk = await open_desk(server)
        desk.server = server
        yield desk


def said(desk, index=-1):
    return [(message["role"], message["content"]) for message in desk.server.requests[index].body["messages"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_goes_on_from_another_and_its_tokens_from_the_others(desk, stream):
    async with desk.client() as client:

        async def ask(text, **more):
            answer = await client.responses.create(model="m", input=text, stream=stream, **more)
            return [event async for event in answer][-1].response if stream else answer

        first = await ask("one", instructions="Be brief.")
        second = await ask("two", previous_response_id=first.id)
        fork = await ask("other", previous_response_id=first.id)
        assert said(desk, 1) == [("user", "one"), ("assistant", "answer 2"), ("user", "two")]
        assert said(desk, 2) == [("user", "one"), ("assistant", "answer 2"), ("user", "other")]
        await ask("three", previous_response_id=second.id)
        assert len(said(desk)) == 5
        assert (second.previous_response_id, fork.output_text) == (first.id, "answer 3")
    items = transitions_of(await desk.spans())
    assert [item.parent for item in items] == [None, None, None, items[1].span_id]


async def test_stored_responses_are_given_again_until_they_are_deleted(desk):
    async with desk.client() as client:
        made = await client.responses.create(model="m", input="one")
        assert (await client.responses.retrieve(made.id)).output_text == "answer 1"
        referred = {"type": "item_reference", "id": made.output[0].id}
        await client.responses.create(model="m", input=[referred, {"role": "user", "content": "two"}])
        assert said(desk) == [("assistant", "answer 1"), ("user", "two")]
        await client.responses.delete(made.id)
        with pytest.raises(Exception, match="no response"):
            await client.responses.retrieve(made.id)
        unstored = await client.responses.create(model="m", input="one", store=False)
        with pytest.raises(Exception, match="no response with `store: false`"):
            await client.responses.create(model="m", input="two", previous_response_id=unstored.id)


async def test_a_conversation_holds_what_was_said_in_it(desk):
    async with desk.client() as client:
        talk = await client.conversations.create(items=[{"type": "message", "role": "user", "content": "begin"}], metadata={"a": "b"})
        for text in ("one", "two"):
            await client.responses.create(model="m", input=text, conversation=talk.id)
        assert said(desk) == [
            ("user", "begin"), ("user", "one"), ("assistant", "answer 2"), ("user", "two"),
        ]  # fmt: skip
        items = [item async for item in client.conversations.items.list(talk.id, order="asc", limit=2)]
        assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]
        assert (await client.conversations.retrieve(talk.id)).metadata == {"a": "b"}
        await client.conversations.delete(talk.id)
        with pytest.raises(Exception, match="no conversation"):
            await client.responses.create(model="m", input="x", conversation=talk.id)


async def test_another_attempt_knows_nothing_of_it(desk, open_desk):
    other = await open_desk(desk.server)
    async with desk.client() as client, other.client() as others:
        made = await client.responses.create(model="m", input="one")
        with pytest.raises(Exception, match="no response"):
            await others.responses.create(model="m", input="two", previous_response_id=made.id)
    assert "no response" in other.attempt.infrastructure_error
    (span,) = await other.spans()
    assert span.error


# What is answered.


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_is_incomplete(open_desk, stream):
    async with ScriptedServer("far too long") as server:
        desk = await open_desk(server)
        async with desk.client() as client:
            answer = await client.responses.create(model="m", input="x", max_output_tokens=3, stream=stream)
            events = [event async for event in answer] if stream else []
            response = events[-1].response if stream else answer
    assert (response.status, response.incomplete_details.reason, response.output_text) == ("incomplete", "max_output_tokens", "far")
    assert not stream or events[-1].type == "response.incomplete"


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_an_item_of_its_own(open_desk, monkeypatch, stream, thinking):
    async with ScriptedServer("42") as server:
        desk = await open_desk(server)
        async with desk.client() as client:
            answer = await client.responses.create(model="m", input="x", stream=stream)
            events = [event async for event in answer] if stream else []
            response = events[-1].response if stream else answer
            await client.responses.create(model="m", input=[*response.output, {"role": "user", "content": "sure?"}])
    reasoning, message = response.output
    assert (reasoning.type, reasoning.content[0].text, message.content[0].text) == ("reasoning", "let me think", "42")
    assert server.requests[1].body["messages"][0] == {"role": "assistant", "content": "42", "reasoning_content": "let me think"}
    if stream:
        assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "let me think"


async def test_every_event_of_a_stream_has_its_number_and_every_item_its_end(open_desk):
    async with ScriptedServer(lambda body: Reply("let me", tool_calls=[("add", {"a": 1}), ("add", {"b": 2})])) as server:
        desk = await open_desk(server)
        async with desk.client() as client:
            events = [event async for event in await client.responses.create(model="m", input="x", stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds.count("output_item.added") == kinds.count("output_item.done") == 3
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.to_dict() for item in done] == [item.to_dict() for item in events[-1].response.output]


async def test_the_tokens_of_a_request_are_counted_where_the_engine_counts_them(desk):
    async with desk.client() as client:
        with pytest.raises(Exception, match="does not count tokens"):
            await client.responses.input_tokens.count(model="m", input="x")
    assert await desk.spans() == ()
