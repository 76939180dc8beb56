"""Text completions of the server, and the count of a chat's tokens."""

from __future__ import annotations

import openai
import pytest

from agl_grpo.server import serve

pytestmark = pytest.mark.asyncio
ASK = {"model": "policy", "prompt": "Once", "max_tokens": 9, "seed": 3, "logprobs": 2, "extra_body": {"return_token_ids": True}}


@pytest.fixture
async def client(engine):
    async with serve(engine) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


async def test_an_answer_tells_text_tokens_logprobs_usage_and_version(client, tokenizer) -> None:
    done = await client.completions.create(**ASK, n=2)
    assert (done.object, done.weight_version, len(done.choices)) == ("text_completion", "0", 2)
    for choice in done.choices:
        assert choice.prompt_token_ids == tokenizer.encode("Once")
        assert choice.text == tokenizer.decode(choice.token_ids, skip_special_tokens=True)
        assert choice.logprobs.tokens == [tokenizer.decode([token]) for token in choice.token_ids]
        assert len(choice.logprobs.token_logprobs) == len(choice.token_ids)
        assert all(logprob <= 0 for logprob in choice.logprobs.token_logprobs)
    assert done.usage.completion_tokens == sum(len(choice.token_ids) for choice in done.choices)


async def test_a_stream_adds_up_to_the_whole_answer(client) -> None:
    whole = await client.completions.create(**ASK, n=2)
    chunks = [chunk async for chunk in await client.completions.create(**ASK, n=2, stream=True, stream_options={"include_usage": True})]
    assert chunks[-1].usage == whole.usage
    for expected in whole.choices:
        pieces = [choice for chunk in chunks for choice in chunk.choices if choice.index == expected.index]
        assert pieces[0].prompt_token_ids == expected.prompt_token_ids
        assert "".join(piece.text for piece in pieces) == expected.text
        assert [token for piece in pieces for token in getattr(piece, "token_ids", None) or ()] == expected.token_ids
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [expected.finish_reason]
        logged = [value for piece in pieces if piece.logprobs for value in piece.logprobs.token_logprobs]
        assert logged == pytest.approx(expected.logprobs.token_logprobs, abs=1e-5)


async def test_nothing_is_told_that_was_not_asked_for(client) -> None:
    told = (await client.completions.create(model="policy", prompt="Once", max_tokens=2)).to_dict()["choices"][0]
    assert told["logprobs"] is None
    assert "token_ids" not in told


async def test_prompts_may_be_token_ids_and_several(client, tokenizer) -> None:
    ids = tokenizer.encode("Once")
    by_text = await client.completions.create(**ASK)
    by_ids = await client.completions.create(**{**ASK, "prompt": ids})
    several = await client.completions.create(**{**ASK, "prompt": ["Once", "Twice"]})
    assert by_text.choices[0].token_ids == by_ids.choices[0].token_ids == several.choices[0].token_ids
    assert several.choices[1].prompt_token_ids == tokenizer.encode("Twice")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ""}, "at least one token"),
        ({"prompt": []}, "must be a text, token ids"),
        ({"prompt": [10_000]}, "each below"),
        ({"prompt": ["a", "b"], "stream": True}, "a stream answers one prompt"),
        ({"echo": True}, "does not support `echo`"),
        ({"suffix": "x"}, "does not support `suffix`"),
        ({"logprobs": 50}, "`logprobs` must be a whole number from 0 to 20"),
        ({"max_tokens": 1000}, "the prompt has 4 and 1000 for the answer"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(client, change, says) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        await client.completions.create(**{**ASK, **change})


async def test_the_stop_text_that_was_met_is_told(engine, client, tokenizer) -> None:
    free = (await client.completions.create(**{**ASK, "max_tokens": 40, "temperature": 0})).choices[0].text
    stop = next(letter for letter in free if letter.isprintable() and letter != "�")
    for stream in (False, True):
        given = {**ASK, "max_tokens": 40, "temperature": 0, "stop": [stop], "stream": stream}
        answer = await client.completions.create(**given)
        choice = [chunk async for chunk in answer][-1].choices[0] if stream else answer.choices[0]
        assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    chat = {"model": "policy", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    assert (await client.chat.completions.create(**chat)).choices[0].stop_reason is None


async def test_the_tokens_of_a_chat_are_counted(client, tokenizer) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    root = str(client.base_url).removesuffix("v1/")
    told = await client.with_options(base_url=root).post("/tokenize", body={"model": "policy", "messages": messages}, cast_to=object)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert (told["count"], told["tokens"], told["max_model_len"]) == (len(ids), list(ids), 256)
