"""OpenAI text completions: they go to the upstream's own route, and are recorded in the form of a chat's answer."""

from __future__ import annotations

from typing import Any, cast

from agl.gateway.dialects import openai
from agl.gateway.memory import Memory
from agl.gateway.stream import TextAssembler


class TextReading:
    """A request of text completions, which goes on as it is."""

    assembler = TextAssembler

    def __init__(self, asked: dict[str, Any]) -> None:
        self.chat = asked

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The answer without what only the gateway asked for."""
        hidden = set[str]() if self.chat.get("return_token_ids") else {"token_ids", "prompt_token_ids"}
        choices = [{name: value for name, value in choice.items() if name not in hidden} for choice in _choices(response)]
        if self.chat.get("logprobs") is None:
            choices = [choice | {"logprobs": None} for choice in choices]
        return {name: value for name, value in response.items() if name not in hidden} | {"choices": choices}

    def writer(self, span_id: str) -> openai.PlainWriter:
        """The stream as it is."""
        return openai.PlainWriter(usage=openai.wants_usage(self.chat))

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """Each text as a message of the assistant; the prompt's ids where a chat completion has them.

        Several prompts in one request have no prompt ids in common: their answers are not learned from.
        """
        choices = _choices(response)
        prompts = [choice.get("prompt_token_ids") for choice in choices] or [None]
        common = prompts[0] if all(ids == prompts[0] for ids in prompts) else None
        about = {"object": "chat.completion", "prompt_token_ids": response.get("prompt_token_ids") or common}
        return {**response, **about, "choices": [_message(choice) for choice in choices]}


class Completions:
    """`/v1/completions`."""

    name = "completions"
    path = "completions"
    translated = False
    token_fields = {"return_token_ids": True, "logprobs": 1}

    def read(self, asked: dict[str, Any], memory: Memory) -> TextReading:
        """Anything: the upstream judges it."""
        return TextReading(asked)

    error = staticmethod(openai.error)
    refusal = staticmethod(openai.refusal)


def _choices(response: dict[str, Any]) -> list[dict[str, Any]]:
    given: Any = response.get("choices")
    return [cast("dict[str, Any]", item) for item in cast("list[Any]", given) if isinstance(item, dict)] if isinstance(given, list) else []


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in choice.items() if name not in ("text", "prompt_token_ids", "prompt_logprobs")}
    logprobs: Any = choice.get("logprobs")
    if isinstance(logprobs, dict):
        told["logprobs"] = _entries(cast("dict[str, Any]", logprobs))
    return told | {"message": {"role": "assistant", "content": choice.get("text")}}


def _entries(logprobs: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities as a chat completion has them."""
    values: list[Any] = logprobs.get("token_logprobs") or []
    tokens: list[Any] = logprobs.get("tokens") or []
    return {"content": [{"token": token, "logprob": value} for token, value in zip(tokens, values, strict=False)]}
