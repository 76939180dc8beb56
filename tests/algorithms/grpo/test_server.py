"""The server, through the client that agents use, and by plain HTTP where that client hides something."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
import pytest_asyncio
import torch

from agl.errors import EngineError
from agl_grpo.engine import Engine
from agl_grpo.server import Server, serve
from agl_grpo.text import Detokenizer, decode
from agl_grpo.tools import split_tool_calls

pytestmark = pytest.mark.asyncio
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}}]


@pytest_asyncio.fixture
async def url(engine: Engine) -> AsyncIterator[str]:
    async with serve(engine) as base:
        yield base


@pytest_asyncio.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def saying(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the model say a text: its logits are replaced, prompt by prompt position."""

    extend = engine._slots.extend

    def script(text: str) -> None:
        ids = [*engine.tokenizer.encode(text, add_special_tokens=False), engine.tokenizer.eos_token_id]
        told = iter(range(len(ids)))

        def scripted(*inputs: Any) -> torch.Tensor:
            logits = torch.full_like(extend(*inputs), -50.0)
            logits[:, ids[next(told)]] = 50.0
            return logits

        monkeypatch.setattr(engine._slots, "extend", scripted)

    return script


async def post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with session.post(f"{url}/chat/completions", data=data) as answer:
            return answer.status, await answer.json()


async def test_an_answer_tells_text_tokens_logprobs_usage_and_version(client, engine, tokenizer) -> None:
    done = await client.chat.completions.create(
        model="policy", messages=HELLO, max_tokens=9, seed=1, n=2, logprobs=True, top_logprobs=2, extra_body={"return_token_ids": True}
    )
    assert done.prompt_token_ids == tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    assert done.weight_version == "0"
    assert done.object == "chat.completion"
    assert done.model == "policy"
    assert [choice.index for choice in done.choices] == [0, 1]
    for choice in done.choices:
        assert choice.finish_reason in ("stop", "length")
        assert choice.message.role == "assistant"
        assert choice.message.content == tokenizer.decode(choice.token_ids, skip_special_tokens=True)
        assert len(choice.logprobs.content) == len(choice.token_ids)
        for entry, token in zip(choice.logprobs.content, choice.token_ids, strict=True):
            assert entry.token == tokenizer.decode([token])
            assert entry.logprob <= 0
            assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token
            assert len(entry.top_logprobs) == 2
            assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    sampled = sum(len(choice.token_ids) for choice in done.choices)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (
        len(done.prompt_token_ids),
        sampled,
        len(done.prompt_token_ids) + sampled,
    )


async def test_token_ids_and_logprobs_are_left_out_when_not_asked_for(url) -> None:
    status, body = await post(url, {"model": "policy", "messages": HELLO, "max_tokens": 2})
    assert status == 200
    assert "prompt_token_ids" not in body
    assert body["choices"][0]["logprobs"] is None
    assert "token_ids" not in body["choices"][0]


async def test_a_stream_adds_up_to_the_whole_answer(client) -> None:
    ask: dict[str, Any] = {
        "model": "policy",
        "messages": HELLO,
        "max_tokens": 12,
        "seed": 3,
        "n": 2,
        "logprobs": True,
        "extra_body": {"return_token_ids": True},
    }
    whole = await client.chat.completions.create(**ask)
    chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})]
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])
    assert {chunk.weight_version for chunk in chunks} == {"0"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for expected in whole.choices:
        pieces = [choice for chunk in chunks for choice in chunk.choices if choice.index == expected.index]
        assert pieces[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in pieces) == expected.message.content
        assert [token for piece in pieces for token in getattr(piece, "token_ids", [])] == expected.token_ids
        logged = [entry.logprob for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
        assert logged == pytest.approx([entry.logprob for entry in expected.logprobs.content], abs=1e-5)
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [expected.finish_reason]


async def test_a_stream_ends_with_the_mark_and_carries_no_usage_unless_asked(url) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json={"model": "policy", "messages": HELLO, "max_tokens": 2, "stream": True}) as answer,
    ):
        assert answer.content_type == "text/event-stream"
        text = await answer.text()
    assert text.endswith("data: [DONE]\n\n")
    assert "usage" not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_token_is_in_the_ids_and_a_stop_text_is_not_in_the_content(client, saying, tokenizer, stream: bool) -> None:
    ask: dict[str, Any] = {"model": "policy", "messages": HELLO, "max_tokens": 20, "temperature": 0}
    ask["extra_body"] = {"return_token_ids": True}
    for said, stops, content, ends in (
        ("grüß", [], "grüß", True),
        ("one STOP two", ["STOP"], "one ", False),
        ("one STO", ["STOP"], "one STO", True),
    ):
        saying(said)
        if stream:
            pieces = [chunk.choices[0] async for chunk in await client.chat.completions.create(**ask, stop=stops, stream=True)]
            shown = "".join(piece.delta.content or "" for piece in pieces)
            ids, reason = [token for piece in pieces for token in getattr(piece, "token_ids", [])], pieces[-1].finish_reason
        else:
            choice = (await client.chat.completions.create(**ask, stop=stops)).choices[0]
            shown, ids, reason = choice.message.content, choice.token_ids, choice.finish_reason
        assert (shown, reason) == (content, "stop")
        assert (ids[-1] == tokenizer.eos_token_id) == ends
        assert tokenizer.decode(ids, skip_special_tokens=True).startswith(content)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_in_the_answer_becomes_a_tool_call(client, saying, stream: bool) -> None:
    saying('Sure. <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    ask: dict[str, Any] = {"model": "policy", "messages": HELLO, "max_tokens": 80, "temperature": 0, "tools": TOOLS}
    if stream:
        chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(**ask, stream=True)]
        message, reason = chunks[-1].delta, chunks[-1].finish_reason
    else:
        done = await client.chat.completions.create(**ask)
        message, reason = done.choices[0].message, done.choices[0].finish_reason
    assert (message.content, reason) == ("Sure.", "tool_calls")
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [("add", '{"a":1}')]


HERMES = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


async def test_a_conversation_with_a_tool_goes_on_from_the_ids_that_were_sampled(url, saying, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", HERMES)
    ask = {"model": "policy", "messages": HELLO, "max_tokens": 120, "temperature": 0, "return_token_ids": True, "tools": TOOLS}
    saying('<tool_call>\n{"name": "add", "arguments": {"a": "3 ÷ 4", "b": [1, 2.5, true, null]}}\n</tool_call>')
    first = (await post(url, ask))[1]
    message = first["choices"][0]["message"]
    answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "0.75"}
    saying("done")
    second = (await post(url, {**ask, "max_tokens": 6, "messages": [*HELLO, message, answer]}))[1]
    begun = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert second["prompt_token_ids"][: len(begun)] == begun
    assert tokenizer.decode(second["prompt_token_ids"][len(begun) :]) == "\n<|im_start|>tool\n0.75<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_marks_of_a_call_that_the_tokenizer_counts_as_special_are_still_read(tokenizer, stream: bool) -> None:
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<tool_call>", "</tool_call>"]})
    ids = marked.encode('<tool_call>{"name": "add"}</tool_call><|im_end|>', add_special_tokens=False)
    assert "<tool_call>" not in marked.decode(ids, skip_special_tokens=True)
    if stream:
        pieces = Detokenizer(marked)
        shown = "".join(pieces.push([token]) for token in ids) + pieces.push([], final=True)
    else:
        shown, _ = decode(marked, ids)
    assert [call["function"]["name"] for call in split_tool_calls(shown, "c")[1]] == ["add"]
    assert "<|im_end|>" not in shown


async def test_tools_and_tool_messages_reach_the_chat_template(url, tokenizer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    ask = {"model": "policy", "messages": messages, "max_tokens": 1, "return_token_ids": True, "tools": TOOLS}
    shown = tokenizer.decode((await post(url, ask))[1]["prompt_token_ids"])
    assert shown == (
        "<|im_start|>tools\nadd <|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"a": 1}</tool_call><|im_end|>\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n'
    )
    without = tokenizer.decode((await post(url, {**ask, "tool_choice": "none"}))[1]["prompt_token_ids"])
    assert "tools" not in without


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"model": "other"}, 404, "model_not_found", "`other` does not exist; this engine serves `policy`"),
        ({"messages": []}, 400, "invalid_value", "at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "`messages[0].role` is `robot`"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "unsupported_content", "`image_url`"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "unsupported_content", "`input_audio`"),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, 400, "unsupported_parameter", "`audio`"),
        (
            {"messages": [{"role": "user", "content": "x" * 300}]},
            400,
            "context_length_exceeded",
            "context is 256 tokens; the messages have 3",
        ),
        ({"max_tokens": 250}, 400, "context_length_exceeded", "and 250 for the answer"),
        ({"max_tokens": 0}, 400, "invalid_value", "`max_tokens`"),
        ({"max_completion_tokens": 1.5}, 400, "invalid_value", "`max_completion_tokens`"),
        ({"n": 0}, 400, "invalid_value", "`n`"),
        ({"n": 100}, 400, "invalid_value", "at most 64 answers at once"),
        ({"temperature": 2.1}, 400, "invalid_value", "`temperature`"),
        ({"temperature": -0.1}, 400, "invalid_value", "`temperature`"),
        ({"temperature": "hot"}, 400, "invalid_value", "`temperature`"),
        ({"top_p": 0}, 400, "invalid_value", "`top_p`"),
        ({"top_p": 1.1}, 400, "invalid_value", "`top_p`"),
        ({"top_logprobs": 3}, 400, "invalid_value", "needs `logprobs: true`"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "`top_logprobs`"),
        ({"stop": [""]}, 400, "invalid_value", "`stop`"),
        ({"seed": "x"}, 400, "invalid_value", "`seed`"),
        ({"stream": "yes"}, 400, "invalid_type", "`stream`"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "unsupported_parameter", "`response_format`"),
        ({"logit_bias": {"5": 100}}, 400, "unsupported_parameter", "`logit_bias`"),
        ({"audio": {"voice": "x"}}, 400, "unsupported_parameter", "`audio`"),
        ({"modalities": ["audio"]}, 400, "unsupported_parameter", "`modalities`"),
        ({"frequency_penalty": 0.5}, 400, "unsupported_parameter", "`frequency_penalty`"),
        ({"top_k": 5}, 400, "unsupported_parameter", "`top_k`"),
        ({"tool_choice": "required", "tools": TOOLS}, 400, "unsupported_parameter", "`tool_choice`"),
        ({"tools": [{"type": "web_search"}]}, 400, "invalid_value", "`tools`"),
        ({"something_new": 1}, 400, "unsupported_parameter", "`something_new` (given was 1)"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_served_is_refused_by_name(
    url, change: dict[str, Any], status: int, code: str, says: str, stream: bool
) -> None:
    got, body = await post(url, {"model": "policy", "messages": HELLO, "stream": stream, **change})
    assert (got, body["error"]["code"]) == (status, code)
    assert says in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"


async def test_values_that_change_nothing_are_accepted(url) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "top_k": -1,
        "modalities": ["text"],
    }
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "tool_choice": "auto", "audio": None}
    assert (await post(url, {"model": "policy", "messages": HELLO, "max_tokens": 1, **neutral, **harmless}))[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(url, body: bytes) -> None:
    status, answer = await post(url, body)
    assert status == 400
    assert "JSON" in answer["error"]["message"]


async def test_the_client_sees_its_own_kinds_of_error(client) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "x" * 300}])
    assert raised.value.code == "context_length_exceeded"


async def test_a_template_that_refuses_names_its_reason(engine, url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    status, body = await post(url, {"model": "policy", "messages": HELLO})
    assert (status, body["error"]["code"]) == (400, "chat_template_error")
    assert "roles must alternate" in body["error"]["message"]


async def test_models_and_health(url) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/models") as answer:
            card = (await answer.json())["data"][0]
        async with session.get(url.removesuffix("/v1") + "/health") as answer:
            health = await answer.json()
    assert (card["id"], card["max_model_len"]) == ("policy", 256)
    assert health == {"status": "ok", "weight_version": "0"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_its_answer_out_of_the_batch(model, make_engine, stream: bool) -> None:
    engine = make_engine(model, max_model_len=200_000)
    async with serve(engine) as url, aiohttp.ClientSession() as session:
        ask = {"model": "policy", "messages": HELLO, "max_tokens": 100_000, "stop": "never there " * 9, "stream": stream}
        call = asyncio.ensure_future(session.post(f"{url}/chat/completions", json=ask))
        while not engine.running:
            await asyncio.sleep(0.005)
        if stream:
            (await call).close()
        call.cancel()
        async with asyncio.timeout(10):
            while engine.running:
                await asyncio.sleep(0.005)
        assert len((await post(url, {"model": "policy", "messages": HELLO, "max_tokens": 3}))[1]["choices"]) == 1


async def test_an_engine_that_fails_is_a_server_error(model, url) -> None:
    model.forward = lambda **inputs: (_ for _ in ()).throw(RuntimeError("out of memory"))
    for stream in (False, True):
        status, body = await post(url, {"model": "policy", "messages": HELLO, "stream": stream})
        assert status == 503
        assert "out of memory" in body["error"]["message"]
        assert body["error"]["type"] == "server_error"


async def test_the_version_of_an_answer_follows_the_weights(engine, url) -> None:
    async with engine.paused():
        engine.version = "12"
    assert (await post(url, {"model": "policy", "messages": HELLO, "max_tokens": 1}))[1]["weight_version"] == "12"


async def test_a_port_in_use_is_named_with_what_to_do(engine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port}.*port 0 for any free one"):
            await Server(engine, port=port).start()


async def test_by_default_it_listens_on_this_machine_only(engine) -> None:
    server = Server(engine)
    url = await server.start()
    await server.stop()
    await server.stop()
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/v1")


async def test_pieces_of_text_never_have_to_be_taken_back(tokenizer) -> None:
    text = "héllo wörld STO then STOP never"
    for stops, shown in (((), text), (("STOP",), "héllo wörld STO then "), (("absent",), text)):
        pieces = Detokenizer(tokenizer, stops)
        out = [pieces.push([token]) for token in tokenizer.encode(text, add_special_tokens=False)]
        assert "\ufffd" not in "".join(out)
        assert "".join(out) + pieces.push([], final=True) == shown


async def test_what_is_no_well_formed_call_stays_text() -> None:
    for text in ("plain", "<tool_call>not json</tool_call>", '<tool_call>{"arguments": {}}</tool_call>', "<tool_call>[1]</tool_call>"):
        assert split_tool_calls(text, "c") == (text, [])
    content, calls = split_tool_calls('a <tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g", "arguments": {"x": 1}}', "c")
    assert content == "a"
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [("c-0", "{}"), ("c-1", '{"x":1}')]
