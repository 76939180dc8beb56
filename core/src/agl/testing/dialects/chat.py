"""OpenAI chat completions, with vLLM's fields for token ids, and the older text completions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from agl.testing.dialects import Event, pieces
from agl.testing.reply import Reply, Sampled
from agl.testing.toy_tokens import logprob_entry, prompt_ids


class Completions:
    """Chat completions, or text completions without messages."""

    end = b"data: [DONE]\n\n"

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat

    def answer(self, number: int, body: dict[str, Any], replies: Sequence[Reply], version: str | None) -> dict[str, Any]:
        """The whole completion; token ids and logprobs only where the request asks for them."""
        prompt = prompt_ids(body)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        sampled = [Sampled(reply, limit) for reply in replies]
        choices = [self._choice(index, body, one, number) for index, one in enumerate(sampled)]
        count = sum(len(one.ids) for one in sampled)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        about: dict[str, Any] = {"id": f"chatcmpl-{number}", "object": "chat.completion" if self._chat else "text_completion"}
        about |= {"created": int(time.time()), "model": body.get("model", "m")}
        about |= {"prompt_token_ids": prompt} if body.get("return_token_ids") and self._chat else {}
        about |= {"weight_version": version} if version is not None else {}
        return {**about, "choices": choices, "usage": usage}

    def events(self, body: dict[str, Any], answer: dict[str, Any]) -> Iterable[Event]:
        """A completion cut as vLLM streams it: prompt ids on the first chunk, token ids and logprobs beside their text."""
        base = {name: value for name, value in answer.items() if name not in ("choices", "usage", "prompt_token_ids")}
        base["object"] = "chat.completion.chunk" if self._chat else "text_completion"
        prompt = _prompt(answer)
        for number, choice in enumerate(answer["choices"]):
            start = {"index": choice["index"], "finish_reason": None} | _prompt(choice)
            start |= {"delta": {"role": "assistant", "content": ""}} if self._chat else {"text": ""}
            yield Event({**base, **(prompt if number == 0 else {}), "choices": [start]})
            for delta, first, last in _deltas(choice):
                yield Event({**base, "choices": [self._piece(choice, delta, first, last)]})
        options: dict[str, Any] = body.get("stream_options") or {}
        if options.get("include_usage"):
            yield Event({**base, "choices": [], "usage": answer["usage"]})

    def error(self, status: int, message: str) -> dict[str, Any]:
        """A refusal."""
        return {"error": {"message": message, "type": "scripted", "code": status}}

    def _piece(self, choice: dict[str, Any], delta: dict[str, Any], first: int, last: int | None) -> dict[str, Any]:
        piece: dict[str, Any] = {"index": choice["index"], "finish_reason": choice["finish_reason"] if last is None else None}
        piece |= {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        if "token_ids" in choice:
            piece["token_ids"] = choice["token_ids"][first:last]
        if choice["logprobs"]:
            piece["logprobs"] = {name: values[first:last] for name, values in choice["logprobs"].items()}
        return piece

    def _choice(self, index: int, body: dict[str, Any], sampled: Sampled, number: int) -> dict[str, Any]:
        calls = [
            {"id": f"call_{number}_{index}_{place}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for place, (name, given) in enumerate(sampled.tool_calls)
        ]
        told: dict[str, Any] = {"index": index, "finish_reason": sampled.finish, "logprobs": None}
        message = {"role": "assistant", "content": sampled.content} | ({"tool_calls": calls} if calls else {})
        told |= {"message": message} if self._chat else {"text": sampled.content or ""}
        if body.get("logprobs"):
            entries = [logprob_entry(token) for token in sampled.ids]
            texts = {"tokens": [entry["token"] for entry in entries], "token_logprobs": [entry["logprob"] for entry in entries]}
            told["logprobs"] = {"content": entries} if self._chat else texts
        if body.get("return_token_ids"):
            told |= {"token_ids": sampled.ids} | ({} if self._chat else {"prompt_token_ids": prompt_ids(body)})
        return told


CHAT = Completions(chat=True)
TEXT = Completions(chat=False)


def _prompt(told: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_token_ids": told["prompt_token_ids"]} if "prompt_token_ids" in told else {}


def _deltas(choice: dict[str, Any]) -> Iterable[tuple[dict[str, Any], int, int | None]]:
    """Deltas with the range of tokens each stands for; the last one, open-ended, carries the rest."""
    message: dict[str, Any] = choice.get("message") or {"content": choice.get("text")}
    place = 0
    for text in pieces(message["content"] or ""):
        size = len(text.encode())
        yield {"content": text}, place, place + size
        place += size
    for index, call in enumerate(message.get("tool_calls", ())):
        yield {"tool_calls": [{"index": index, **call}]}, place, place
    yield {}, place, None
