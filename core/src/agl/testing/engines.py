"""EngineConformance: what every engine promises, as checks.

    class TestMyEngine(EngineConformance):
        def make_engine(self) -> Engine:
            return MyEngine(max_tokens=32)

        def make_policy(self) -> Policy:
            return Policy(module=tiny_model(), tokenizer=tokenizer)

        def logprobs(self, policy, prompt_ids, token_ids) -> list[float]: ...
        def learn(self, policy) -> None: ...

A small random model does, with a context of 200 tokens or more for messages of 20 letters.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import aiohttp

from agl.engines import Engine, Policy
from agl.gateway.stream import StreamAssembler
from agl.testing.expected import Conformance, ConformanceError, require
from agl.testing.running import error_of, left_behind, run_check

Json = dict[str, Any]
PART = "\ufffd"
"""What a tokenizer decodes a part of a character to. An engine may leave out one that was cut off at the end of an answer."""


class Served:
    """An engine that serves, and a client of it."""

    def __init__(self, engine: Engine, policy: Policy, session: aiohttp.ClientSession) -> None:
        self.engine, self.policy, self.session = engine, policy, session

    def body(self, text: str = "Hello.", **fields: Any) -> Json:
        """A request that asks for all that is learned from."""
        messages = [{"role": "user", "content": text}]
        known = {"model": self.engine.model, "messages": messages, "max_tokens": 16, "temperature": 1.0, "top_p": 1.0}
        return {**known, "logprobs": True, "return_token_ids": True, **fields}

    async def post(self, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer; the text where it is no JSON."""
        sent: Any = {"data": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Content-Type": "application/json"}
        async with self.session.post(f"{self.engine.endpoint}/chat/completions", headers=headers, **sent) as response:
            try:
                return response.status, await response.json(content_type=None)
            except ValueError:
                return response.status, await response.text()

    async def ask(self, text: str = "Hello.", **fields: Any) -> Json:
        """The answer to a request that must be served."""
        status, answer = await self.post(self.body(text, **fields))
        require(status == 200, f"a plain request was answered {status}: {answer}")
        return answer

    async def stream(self, text: str = "Hello.", started: asyncio.Event | None = None, **fields: Any) -> Json:
        """The same, streamed and put together again; `started` is set with the first token."""
        body = self.body(text, stream=True, **fields)
        assembler = StreamAssembler()
        async with self.session.post(f"{self.engine.endpoint}/chat/completions", json=body) as response:
            if response.status != 200:
                raise ConformanceError(f"a streamed request was answered {response.status}: {(await response.text())[:300]}")
            async for data in response.content.iter_any():
                if assembler.feed(data) and started is not None:
                    started.set()
        require(assembler.complete and assembler.error is None, f"the stream broke off: {assembler.error or 'it has no end'}")
        return assembler.finished() or {}


Check = Callable[[Any, Served], Coroutine[Any, Any, None]]


def on_engine(check: Check) -> Callable[[Any], None]:
    """A check on an engine that serves a fresh policy, and is stopped afterwards."""

    @functools.wraps(check)
    def run(self: EngineConformance) -> None:
        run_check(_serving(self, lambda served: check(self, served)))

    del run.__wrapped__  # pytest would take the engine for a fixture
    return run


async def _serving(kit: EngineConformance, check: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    engine, policy = kit.make_engine(), kit.make_policy()
    endpoint = await engine.start(policy)
    try:
        require(endpoint == engine.endpoint and endpoint.rstrip("/").endswith("/v1"), f"`start` gave {endpoint!r}, no base URL with `/v1`")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            await check(Served(engine, policy, session))
    finally:
        await engine.stop()


class EngineConformance(Conformance):
    """Checks of a driver of `agl.engines`."""

    tolerance = 1e-3
    """Greatest difference between a log-probability that the engine tells and the model's own."""

    def make_engine(self) -> Engine:
        """An engine that is not started."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_engine(self)`")

    def make_policy(self) -> Policy:
        """A small policy of version `0`, with the same weights each time."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_policy(self)`")

    def logprobs(self, policy: Policy, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """(T,) log-probabilities of an answer's tokens after a prompt, by the model itself, at temperature 1."""
        raise NotImplementedError(f"{type(self).__name__} must define `logprobs(self, policy, prompt_ids, token_ids)`")

    def learn(self, policy: Policy) -> None:
        """Change the policy's parameters in place, so that its probabilities are clearly others."""
        raise NotImplementedError(f"{type(self).__name__} must define `learn(self, policy)`")

    # Answers.

    @on_engine
    async def test_it_names_the_model_that_it_serves(self, served: Served) -> None:
        """If this fails, clients that look for the model do not find it."""
        async with served.session.get(f"{served.engine.endpoint}/models") as response:
            listed: Json = await response.json() if response.status == 200 else {}
        names = [card.get("id") for card in listed.get("data", [])]
        require(served.engine.model in names, f"GET /v1/models lists {names}, not {served.engine.model!r}")
        llm = served.engine.llm()
        known = (served.engine.endpoint, served.engine.model, "0")
        require((llm.endpoint, llm.model, llm.version) == known, f"`llm()` is {llm}, the engine is {known}")

    @on_engine
    async def test_prompt_ids_are_those_of_the_chat_template(self, served: Served) -> None:
        """If this fails, learning conditions the answer on another prompt than the one that was seen."""
        answer = await served.ask("How many?")
        template = served.policy.tokenizer.apply_chat_template
        ids = template([{"role": "user", "content": "How many?"}], add_generation_prompt=True, tokenize=True, return_dict=False)
        require(answer.get("prompt_token_ids") == list(ids), f"`prompt_token_ids` is {answer.get('prompt_token_ids')}, not {list(ids)}")

    @on_engine
    async def test_answers_tell_the_ids_that_were_sampled_with_their_logprobs(self, served: Served) -> None:
        """If this fails, tokens are learned that the model did not sample (made again from the text, say), or with wrong probabilities."""
        answers = await asyncio.gather(*(served.ask(f"Question {n}?", seed=n, max_tokens=24) for n in range(12)))
        for answer in answers:
            self._compare(served.policy, answer)

    @on_engine
    async def test_a_choice_more_is_an_answer_of_its_own(self, served: Served) -> None:
        """If this fails, voting and self-consistency learn one answer several times."""
        answer = await served.ask(n=3, seed=5)
        require([choice["index"] for choice in answer["choices"]] == [0, 1, 2], f"`n=3` gave {len(answer['choices'])} choices")
        self._compare(served.policy, answer)
        different = {tuple(choice["token_ids"]) for choice in answer["choices"]}
        require(len(different) > 1, "the three choices of one request are the same")

    @on_engine
    async def test_temperature_zero_takes_the_most_probable(self, served: Served) -> None:
        """If this fails, evaluations differ from one time to the next."""
        greedy, again = [await served.ask(temperature=0.0) for _ in range(2)]
        ids = greedy["choices"][0]["token_ids"]
        require(ids == again["choices"][0]["token_ids"], "two greedy answers to one prompt differ")
        first = self.logprobs(served.policy, greedy["prompt_token_ids"], ids[:1])[0]
        sampled = [await served.ask(max_tokens=1, seed=seed) for seed in range(8)]
        best = max(self.logprobs(served.policy, one["prompt_token_ids"], one["choices"][0]["token_ids"])[0] for one in sampled)
        require(first >= best - self.tolerance, f"the greedy token has log-probability {first:.3f}, a sampled one {best:.3f}")

    @on_engine
    async def test_a_seed_repeats_its_answer(self, served: Served) -> None:
        """If this fails, no run can be repeated."""
        alone = [_ids(await served.ask(f"Question {n}?", seed=n)) for n in range(4)]
        together = await asyncio.gather(*(served.ask(f"Question {n % 4}?", seed=n % 4) for n in range(12)))
        wrong = [n for n, answer in enumerate(together) if _ids(answer) != alone[n % 4]]
        require(not wrong, f"{len(wrong)} of 12 requests were answered otherwise among others than alone, with the same seed")
        others = {tuple(_ids(await served.ask("Question 0?", seed=seed))) for seed in range(100, 106)}
        require(len(others) > 1, "six seeds gave one and the same answer")

    @on_engine
    async def test_streaming_gives_the_same_as_not_streaming(self, served: Served) -> None:
        """If this fails, an agent that streams is learned from other tokens than it saw."""
        for n in range(6):
            whole, streamed = await served.ask(f"Question {n}?", seed=n), await served.stream(f"Question {n}?", seed=n)
            require(_ids(whole) == _ids(streamed), f"seed {n}: the ids are {_ids(whole)}, streamed {_ids(streamed)}")
            require(whole["prompt_token_ids"] == streamed.get("prompt_token_ids"), "the stream tells other prompt ids, or none")
            texts = [answer["choices"][0]["message"]["content"] or "" for answer in (whole, streamed)]
            require(texts[0] == texts[1], f"seed {n}: the text is {texts[0]!r}, streamed {texts[1]!r}")
            ends = [answer["choices"][0]["finish_reason"] for answer in (whole, streamed)]
            require(ends[0] == ends[1], f"seed {n}: it ended by {ends[0]!r}, streamed by {ends[1]!r}")
            require(streamed.get("weight_version") == whole.get("weight_version"), "the stream tells another version, or none")
            self._compare(served.policy, streamed)

    @on_engine
    async def test_many_requests_at_once_are_answered_each(self, served: Served) -> None:
        """If this fails, a batch of rollouts loses calls, or gets each other's answers."""
        prompts = [f"Question {n}?" for n in range(48)]
        answers = await asyncio.gather(*(served.ask(text, seed=n, max_tokens=8) for n, text in enumerate(prompts)))
        shown = {tuple(answer["prompt_token_ids"]) for answer in answers}
        require(len(shown) == len(prompts), f"48 prompts came back as {len(shown)} different ones")
        for answer in answers[::8]:
            self._compare(served.policy, answer)

    @on_engine
    async def test_a_request_that_cannot_be_served_is_refused_clearly(self, served: Served) -> None:
        """If this fails, a mistake of the agent looks like a failure of the endpoint, and is tried again for ever."""
        good = served.body()
        wrong: dict[str, Any] = {
            "another model": {**good, "model": "no-such-model"},
            "no JSON": b"{not json",
            "no messages": {**good, "messages": []},
            "an unknown role": {**good, "messages": [{"role": "nobody", "content": "x"}]},
            "a negative temperature": {**good, "temperature": -1},
            "too long a prompt": served.body("x" * 200_000),
            "zero tokens": {**good, "max_tokens": 0},
        }
        for what, body in wrong.items():
            status, answer = await served.post(body)
            shown = str(answer)[:200]
            require(400 <= status < 500, f"a request with {what} was answered {status}: {shown}")
            require(_message(answer), f"a request with {what} was refused without `error.message`: {shown}")
        await served.ask()

    @on_engine
    async def test_a_client_that_goes_away_leaves_the_engine_working(self, served: Served) -> None:
        """If this fails, cancelled rollouts fill the batch with answers that nobody reads."""
        gone = [asyncio.ensure_future(served.ask(f"Question {n}?", max_tokens=100)) for n in range(8)]
        await asyncio.sleep(0.05)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        async with served.engine.paused(20.0):
            pass
        self._compare(served.policy, await served.ask())

    # Versions.

    @on_engine
    async def test_every_answer_tells_its_version(self, served: Served) -> None:
        """If this fails, learning takes answers of old weights for those of the present ones."""
        told = (await served.ask()).get("weight_version")
        require(told == served.engine.version == "0", f"`weight_version` is {told!r}, `version` {served.engine.version!r}, started was '0'")
        async with served.engine.paused():
            await served.engine.update("first update")
        told = (await served.ask()).get("weight_version")
        require(told == served.engine.version == "first update", f"after the update `weight_version` is {told!r}")
        require(served.engine.llm().version == "first update", f"`llm()` has version {served.engine.llm().version!r}")

    @on_engine
    async def test_nothing_is_sampled_in_a_pause(self, served: Served) -> None:
        """If this fails, an answer is sampled while its weights are being changed."""
        async with served.engine.paused():
            asked = asyncio.ensure_future(served.ask(max_tokens=1))
            await asyncio.sleep(0.4)
            require(not asked.done(), "a request was answered within the pause")
        answer = await asyncio.wait_for(asked, 20.0)
        self._compare(served.policy, answer)

    @on_engine
    async def test_one_version_of_the_weights_samples_a_whole_answer(self, served: Served) -> None:
        """If this fails, an answer begins with old weights and ends with new ones: its probabilities are those of no model."""
        started = asyncio.Event()
        asked = [asyncio.ensure_future(served.stream("First?", started, seed=1, max_tokens=100))]
        asked += [asyncio.ensure_future(served.ask(f"Question {n}?", seed=n, max_tokens=100)) for n in range(5)]
        await asyncio.wait_for(started.wait(), 20.0)
        async with served.engine.paused():
            self.learn(served.policy)
            await served.engine.update("1")
        answers = await asyncio.gather(*asked)
        policies = {"0": self.make_policy(), "1": served.policy}
        for answer in answers:
            self._compare(policies[answer["weight_version"]], answer)

    @on_engine
    async def test_after_an_update_answers_come_from_the_new_weights(self, served: Served) -> None:
        """If this fails, the agent never sees what was learned, or what is remembered of old weights gets into new answers."""
        long = "Once more? " * 5
        before = await served.ask(long, seed=3)
        async with served.engine.paused():
            self.learn(served.policy)
            await served.engine.update("1")
        now = self.logprobs(served.policy, before["prompt_token_ids"], _ids(before))
        change = max(abs(new - old) for new, old in zip(now, _logprobs(before), strict=True))
        require(change > 10 * self.tolerance, f"`learn` changes log-probabilities by {change:.2g} at most: too little to be seen")
        self._compare(served.policy, await served.ask(long, seed=3))

    # Life.

    def test_it_stops_without_a_trace_and_starts_again(self) -> None:
        """If this fails, an evaluation after a run finds the port taken, or memory is filled run by run."""
        run_check(_twice(self))
        run_check(_stop_unstarted(self))

    def _compare(self, policy: Policy, answer: Json) -> None:
        """The ids are sampled from this policy: the model itself gives them the log-probabilities that were told."""
        for choice in answer["choices"]:
            given: Any = choice.get("token_ids")
            ids = [one for one in cast(list[Any], given) if isinstance(one, int)] if isinstance(given, list) else []
            require(ids and ids == given, f"`token_ids` is {given!r}")
            told = _logprobs(answer, choice["index"])
            require(len(told) == len(ids), f"{len(ids)} `token_ids` have {len(told)} log-probabilities")
            own = self.logprobs(policy, answer["prompt_token_ids"], ids)
            off = max(abs(a - b) for a, b in zip(own, told, strict=True))
            require(
                off <= self.tolerance, f"log-probabilities of the told ids differ from the model's own by up to {off:.3g}: {told} and {own}"
            )
            end = policy.tokenizer.decode(ids, skip_special_tokens=True)
            text = choice["message"].get("content") or ""
            same = text.rstrip(PART) == end.rstrip(PART)
            require(same or choice["message"].get("tool_calls"), f"the text {text!r} is not that of the ids, {end!r}")


def _ids(answer: Json) -> list[int]:
    return answer["choices"][0].get("token_ids") or []


def _logprobs(answer: Json, choice: int = 0) -> list[float]:
    told: Json = answer["choices"][choice].get("logprobs") or {}
    entries: list[Json] = told.get("content") or []
    return [entry["logprob"] for entry in entries]


def _message(answer: Any) -> str:
    """What an error in OpenAI's form says; nothing where it has none."""
    error: Any = cast(Json, answer).get("error") if isinstance(answer, dict) else None
    message: Any = cast(Json, error).get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


async def _twice(kit: EngineConformance) -> None:
    threads, engine = set(threading.enumerate()), kit.make_engine()
    for _ in range(2):
        endpoint = await engine.start(kit.make_policy())
        async with aiohttp.ClientSession() as session:
            await Served(engine, kit.make_policy(), session).ask()
        await engine.stop()
        await engine.stop()
        async with aiohttp.ClientSession() as session:
            error = await error_of(session.get(f"{endpoint}/models"))
        require(isinstance(error, aiohttp.ClientConnectionError), f"after `stop` the endpoint still answers ({error!r})")
    left = await asyncio.to_thread(left_behind, threads)
    require(not left, f"threads go on after `stop`: {left}")


async def _stop_unstarted(kit: EngineConformance) -> None:
    await kit.make_engine().stop()
