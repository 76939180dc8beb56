"""Server: the engine as an OpenAI-compatible endpoint that also tells token ids, log-probabilities and weight version."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from agl.errors import EngineError
from agl_grpo.completions import TextCompletions
from agl_grpo.engine import Answer, Delta, Engine
from agl_grpo.protocol import ChatRequest, RequestError, parse
from agl_grpo.sampling import Sampling
from agl_grpo.streaming import ChunkWriter, stream
from agl_grpo.text import Detokenizer
from agl_grpo.tools import split_tool_calls
from agl_grpo.wire import json_answer, usage


class Server:
    """HTTP over an engine: `POST /v1/chat/completions`, `/v1/completions` and `/tokenize`, `GET /v1/models` and `/health`.

    Args:
        engine: what samples.
        host: address to listen on; the default reaches this machine only.
        port: 0 takes a free one.
        model: the name that requests must give.
    """

    def __init__(self, engine: Engine, host: str = "127.0.0.1", port: int = 0, *, model: str = "policy") -> None:
        self.engine, self.host, self.port, self.model = engine, host, port, model
        self._runner: web.AppRunner | None = None
        self._token = functools.lru_cache(maxsize=65536)(self._token_text)

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._told(self._chat))
        app.router.add_post("/v1/completions", self._told(TextCompletions(self).answer))
        app.router.add_post("/tokenize", self._told(self._tokenize))
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        return app

    async def start(self) -> str:
        """Listens, and returns the base URL with its `/v1`.

        Raises:
            EngineError: the address cannot be had.
        """
        # A client that goes away must cancel its handler, so that its answers leave the batch.
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            raise EngineError(
                f"the engine cannot listen on {self.host} port {self.port} ({error.strerror or error}); "
                "stop what listens there, choose another port, or port 0 for any free one"
            ) from error
        self._runner = runner
        port = runner.addresses[0][1]
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}/v1"

    async def stop(self) -> None:
        """Stops listening; requests in work are cancelled."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- handlers -----------------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return json_answer({"status": "ok", "weight_version": self.engine.version})

    async def _models(self, request: web.Request) -> web.Response:
        card = {"id": self.model, "object": "model", "created": 0, "owned_by": "agl", "max_model_len": self.engine.max_model_len}
        return json_answer({"object": "list", "data": [card]})

    @staticmethod
    def _told(
        answer: Callable[[web.Request, Any], Awaitable[web.StreamResponse]],
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler of JSON whose errors are told in OpenAI's form."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                try:
                    body = msgspec.json.decode(await request.read())
                except msgspec.DecodeError as error:
                    raise RequestError(f"the body is not JSON: {error}") from None
                return await answer(request, body)
            except RequestError as error:
                return json_answer(error.body(), error.status)
            except EngineError as error:
                return json_answer(RequestError(str(error), code="engine_error", status=503).body(), 503)

        return handle

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        chat = parse(body, (self.model,))
        prompt_ids = self._prompt(chat)
        self.check_room(len(prompt_ids), chat.sampling, "messages")
        return await (self._stream(request, chat, prompt_ids) if chat.stream else self._complete(chat, prompt_ids))

    async def _tokenize(self, request: web.Request, body: Any) -> web.Response:
        """The prompt of a chat as token ids, as vLLM's route of this name tells them."""
        ids = self._prompt(parse(body, (self.model,)))
        return json_answer({"count": len(ids), "max_model_len": self.engine.max_model_len, "tokens": ids})

    def _prompt(self, chat: ChatRequest) -> list[int]:
        try:
            return list(
                self.engine.tokenizer.apply_chat_template(
                    chat.messages, tools=chat.tools, add_generation_prompt=True, tokenize=True, return_dict=False, **chat.template_options
                )
            )
        except Exception as error:
            raise RequestError(
                f"the chat template refuses these messages: {error}", param="messages", code="chat_template_error"
            ) from error

    def check_room(self, size: int, sampling: Sampling, field: str) -> None:
        """Whether the engine can answer.

        Args:
            size: of the prompt in tokens.
            field: of the request that holds it.

        Raises:
            RequestError: the answer has no room, or these are too many at once.
        """
        room, asked = self.engine.max_model_len - size, sampling.max_tokens
        if room < (asked or 1):
            wants = f"and {asked} for the answer " if asked else ""
            raise RequestError(
                f"this model's context is {self.engine.max_model_len} tokens; the {field} {'have' if field.endswith('s') else 'has'} "
                f"{size} {wants}({size + (asked or 1)} together)",
                param=field,
                code="context_length_exceeded",
            )
        if sampling.n > self.engine.max_batch:
            raise RequestError(
                f"`n` is {sampling.n}; this engine samples at most {self.engine.max_batch} answers at once",
                param="n",
                code="invalid_value",
            )

    async def _complete(self, chat: ChatRequest, prompt_ids: list[int]) -> web.Response:
        done = await self.engine.generate(prompt_ids, chat.sampling)
        head = self.head("chat.completion", done.version)
        head["choices"] = [self._choice(chat, index, answer, head["id"]) for index, answer in enumerate(done.answers)]
        head["usage"] = usage(len(prompt_ids), sum(len(answer.token_ids) for answer in done.answers))
        if chat.token_ids:
            head["prompt_token_ids"] = prompt_ids
        return json_answer(head)

    def _choice(self, chat: ChatRequest, index: int, answer: Answer, name: str) -> dict[str, Any]:
        message, reason = self._message(chat, answer.text, answer.finish_reason, f"{name}-{index}")
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "refusal": None, **message},
            "finish_reason": reason,
            "logprobs": None,
            "stop_reason": answer.stop,
        }
        if chat.logprobs:
            choice["logprobs"] = {"content": self._logprobs(answer.token_ids, answer.logprobs, answer.top), "refusal": None}
        if chat.token_ids:
            choice["token_ids"] = answer.token_ids
        return choice

    @staticmethod
    def _message(chat: ChatRequest, text: str, reason: str, name: str) -> tuple[dict[str, Any], str]:
        if chat.tools:
            content, calls = split_tool_calls(text, f"call-{name}")
            if calls:
                return {"content": content or None, "tool_calls": calls}, "tool_calls" if reason == "stop" else reason
        return {"content": text}, reason

    def head(self, kind: str, version: str) -> dict[str, Any]:
        """What every answer begins with.

        Args:
            kind: its `object`.
            version: of the weights that sampled it.
        """
        return {
            "id": f"{'cmpl' if kind == 'text_completion' else 'chatcmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "weight_version": version,
        }

    def _logprobs(self, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[list[tuple[int, float]]]) -> list[dict[str, Any]]:
        rows = top or [[]] * len(ids)
        return [
            {**self._token(token), "logprob": logprob, "top_logprobs": [{**self._token(other), "logprob": value} for other, value in row]}
            for token, logprob, row in zip(ids, logprobs, rows, strict=True)
        ]

    def token_text(self, token: int) -> str:
        """The text of one token; what is a part of a character has the replacement character."""
        return str(self._token(token)["token"])

    def _token_text(self, token: int) -> dict[str, Any]:
        text = self.engine.tokenizer.decode([token])
        # A token that is part of a character has no text of its own, hence no bytes that could be told.
        return {"token": text, "bytes": None if "\ufffd" in text else list(text.encode())}

    # --- streaming ----------------------------------------------------------------------------------------------------

    async def _stream(self, request: web.Request, chat: ChatRequest, prompt_ids: list[int]) -> web.StreamResponse:
        deltas = self.engine.stream(prompt_ids, chat.sampling)
        return await stream(request, deltas, lambda version: _Chunks(self, chat, prompt_ids, self.head("chat.completion.chunk", version)))


class _Chunks(ChunkWriter):
    def __init__(self, server: Server, chat: ChatRequest, prompt_ids: list[int], head: dict[str, Any]) -> None:
        super().__init__(head, len(prompt_ids), include_usage=chat.include_usage)
        self.server, self.chat, self.prompt_ids = server, chat, prompt_ids
        self._text = [Detokenizer(server.engine.tokenizer, chat.sampling.stop) for _ in range(chat.sampling.n)]
        # With tools the text waits for the end: only then is it known what of it is a call.
        self._kept = [""] * chat.sampling.n

    def opening(self) -> bytes:
        """Role of each choice, and the prompt's ids."""
        choices = [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}
            for index in range(len(self._text))
        ]
        return self.event(choices, **({"prompt_token_ids": self.prompt_ids} if self.chat.token_ids else {}))

    def chunk(self, delta: Delta) -> bytes:
        """One token, or the end of one choice."""
        index, server = delta.choice, self.server
        choice: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": delta.finish_reason, "logprobs": None}
        if delta.token_id is None:
            choice["delta"], choice["finish_reason"] = self._ending(index, delta.finish_reason or "stop")
            choice["stop_reason"] = self._text[index].stop
            return self.event([choice])
        self.sampled += 1
        text = self._text[index].push([] if server.engine.ends(delta.token_id) else [delta.token_id])
        if self.chat.tools:
            self._kept[index] += text
        elif text:
            choice["delta"]["content"] = text
        if self.chat.logprobs:
            choice["logprobs"] = {"content": server._logprobs([delta.token_id], [delta.logprob or 0.0], [delta.top or []]), "refusal": None}
        if self.chat.token_ids:
            choice["token_ids"] = [delta.token_id]
        return self.event([choice])

    def _ending(self, index: int, reason: str) -> tuple[dict[str, Any], str]:
        text = self._kept[index] + self._text[index].push([], final=True)
        message, reason = self.server._message(self.chat, text, reason, f"{self.head['id']}-{index}")
        if "tool_calls" in message:
            message["tool_calls"] = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
        return {key: value for key, value in message.items() if value}, reason


@asynccontextmanager
async def serve(engine: Engine, host: str = "127.0.0.1", port: int = 0, *, model: str = "policy") -> AsyncIterator[str]:
    """Serves an engine for the length of the context, and gives the base URL with its `/v1`.

    Raises:
        EngineError: the address cannot be had.
    """
    server = Server(engine, host, port, model=model)
    url = await server.start()
    try:
        yield url
    finally:
        await server.stop()
