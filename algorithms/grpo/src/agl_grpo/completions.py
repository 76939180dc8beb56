"""Text completions of the engine: a prompt as it is, without a chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agl.errors import EngineError
from agl_grpo.engine import Answer, Completion, Delta
from agl_grpo.protocol import RequestError
from agl_grpo.streaming import ChunkWriter, stream
from agl_grpo.text import Detokenizer
from agl_grpo.text_protocol import TextRequest, parse_text
from agl_grpo.wire import json_answer, usage

if TYPE_CHECKING:
    from agl_grpo.server import Server


class TextCompletions:
    """`POST /v1/completions` of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        """The completion.

        Raises:
            RequestError: the request cannot be served.
            EngineError: sampling failed.
        """
        asked = parse_text(body, (self.server.model,))
        prompts = [self._ids(asked, prompt) for prompt in asked.prompts]
        if asked.stream:
            return await self._stream(request, asked, prompts[0])
        done = await asyncio.gather(*(self.server.engine.generate(ids, asked.sampling) for ids in prompts))
        return json_answer(self._whole(asked, prompts, done))

    def _ids(self, asked: TextRequest, prompt: str | list[int]) -> list[int]:
        tokenizer = self.server.engine.tokenizer
        ids = list(tokenizer.encode(prompt, add_special_tokens=asked.add_special_tokens)) if isinstance(prompt, str) else prompt
        if not ids or max(ids) >= len(tokenizer):
            raise RequestError(f"`prompt` must have at least one token, each below {len(tokenizer)}", param="prompt", code="invalid_value")
        self.server.check_room(len(ids), asked.sampling, "prompt")
        return ids

    def _whole(self, asked: TextRequest, prompts: Sequence[list[int]], done: Sequence[Completion]) -> dict[str, Any]:
        pairs = [(ids, answer) for ids, completion in zip(prompts, done, strict=True) for answer in completion.answers]
        choices = [self._choice(asked, index, ids, answer) for index, (ids, answer) in enumerate(pairs)]
        counts = usage(sum(map(len, prompts)), sum(len(answer.token_ids) for _, answer in pairs))
        # One version for the request: an update of the weights may come between two of its prompts.
        versions = {completion.version for completion in done}
        if len(versions) > 1:
            raise EngineError("the weights changed while the prompts of this request were sampled; send it again")
        return {**self.server.head("text_completion", versions.pop()), "choices": choices, "usage": counts}

    def _choice(self, asked: TextRequest, index: int, ids: list[int], answer: Answer) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "text": answer.text, "finish_reason": answer.finish_reason, "logprobs": None}
        choice["stop_reason"] = answer.stop
        if asked.logprobs:
            choice["logprobs"] = self._logprobs(answer.token_ids, answer.logprobs, answer.top)
        return choice | ({"token_ids": answer.token_ids, "prompt_token_ids": ids} if asked.token_ids else {})

    def _logprobs(self, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[list[tuple[int, float]]]) -> dict[str, Any]:
        """In the form of this API; the offsets in the text are left out, since a token may be a part of a character."""
        told = self.server.token_text
        best = [{told(other): value for other, value in row} for row in top] or None
        return {"tokens": [told(token) for token in ids], "token_logprobs": list(logprobs), "top_logprobs": best, "text_offset": []}

    async def _stream(self, request: web.Request, asked: TextRequest, ids: list[int]) -> web.StreamResponse:
        deltas = self.server.engine.stream(ids, asked.sampling)
        return await stream(request, deltas, lambda version: _TextChunks(self, asked, ids, self.server.head("text_completion", version)))


class _TextChunks(ChunkWriter):
    def __init__(self, completions: TextCompletions, asked: TextRequest, ids: list[int], head: dict[str, Any]) -> None:
        super().__init__(head, len(ids), include_usage=asked.include_usage)
        self._completions, self._asked, self._ids = completions, asked, ids
        engine = completions.server.engine
        self._text = [Detokenizer(engine.tokenizer, asked.sampling.stop) for _ in range(asked.sampling.n)]

    def opening(self) -> bytes:
        """The prompt's ids, where they are asked for."""
        ids = {"prompt_token_ids": self._ids} if self._asked.token_ids else {}
        return self.event([{"index": index, "text": "", "finish_reason": None, **ids} for index in range(len(self._text))])

    def chunk(self, delta: Delta) -> bytes:
        """One token, or the end of one choice."""
        text, engine = self._text[delta.choice], self._completions.server.engine
        choice: dict[str, Any] = {"index": delta.choice, "text": "", "finish_reason": delta.finish_reason, "logprobs": None}
        if delta.token_id is None:
            return self.event([choice | {"text": text.push([], final=True), "stop_reason": text.stop}])
        self.sampled += 1
        choice["text"] = text.push([] if engine.ends(delta.token_id) else [delta.token_id])
        if self._asked.logprobs:
            choice["logprobs"] = self._completions._logprobs([delta.token_id], [delta.logprob or 0.0], [delta.top] if delta.top else [])
        return self.event([choice | ({"token_ids": [delta.token_id]} if self._asked.token_ids else {})])
