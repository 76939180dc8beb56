"""Protocol of text completions: what a request may ask of the engine. Field names and forms are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agl_grpo.protocol import RequestError, checked_kind, checked_model, checked_sampling, refuse, whole_number
from agl_grpo.sampling import Sampling

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for this API."""
_SERVED = {
    "prompt", "model", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs", "stream", "stream_options",
    "return_token_ids", "add_special_tokens",
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",), "best_of": (1,)}


@dataclass(frozen=True)
class TextRequest:
    """A checked request."""

    prompts: list[str | list[int]]
    """Texts, or token ids."""
    sampling: Sampling
    add_special_tokens: bool
    """Whether texts get the tokens that the tokenizer puts around them."""
    stream: bool
    include_usage: bool
    logprobs: bool
    token_ids: bool
    """Whether to return `prompt_token_ids` and `token_ids`."""


def parse_text(body: Any, models: tuple[str, ...]) -> TextRequest:
    """Checks the JSON of a request.

    Raises:
        RequestError: with the status and the code that OpenAI uses, naming the field.
    """
    given = checked_model(body, models)
    refuse(given, _SERVED, _NEUTRAL)
    prompts = _prompts(given.get("prompt"))
    logprobs = whole_number(given, "logprobs", None, 0, 20)
    stream = checked_kind(given, "stream", bool, False)
    if stream and len(prompts) > 1:
        raise RequestError(f"a stream answers one prompt, given were {len(prompts)}", param="prompt", code="unsupported_parameter")
    options = given.get("stream_options", {})
    asked = {"max_tokens": DEFAULT_MAX_TOKENS, **given, "top_logprobs": logprobs or 0, "logprobs": True}
    return TextRequest(
        prompts=prompts,
        sampling=checked_sampling(asked),
        add_special_tokens=checked_kind(given, "add_special_tokens", bool, True),
        stream=stream,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        logprobs=logprobs is not None,
        token_ids=checked_kind(given, "return_token_ids", bool, False),
    )


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _is_ids(value):
            return [value]
        if all(isinstance(item, str) or _is_ids(item) for item in value):
            return value
    raise RequestError("`prompt` must be a text, token ids, or a list with at least one of these", param="prompt", code="invalid_value")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)
