"""Protocol: what a chat completion request may ask of the engine, and the errors in OpenAI's form for what it may not.

Field names are vLLM's. A field that would change the answer and is not served is refused by name: an agent must not be
trained on answers to a question that it did not ask.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agl_grpo.sampling import Sampling

ROLES = ("system", "developer", "user", "assistant", "tool")
_IGNORED = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
_SERVED = {
    "messages", "model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "logprobs", "top_logprobs",
    "stream", "stream_options", "tools", "tool_choice", "return_token_ids", "chat_template_kwargs",
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class RequestError(Exception):
    """A request that cannot be served, as the client is told."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict[str, Any]:
        """OpenAI's error JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class ChatRequest:
    """A checked request."""

    messages: list[dict[str, Any]]
    """As the chat template takes them: text contents, tool arguments as objects."""
    sampling: Sampling
    tools: list[dict[str, Any]] | None
    """None when there are none or `tool_choice` is `none`."""
    template_options: dict[str, Any]
    stream: bool
    include_usage: bool
    logprobs: bool
    token_ids: bool
    """Whether to return `prompt_token_ids` and `token_ids`."""


def parse(body: Any, models: tuple[str, ...]) -> ChatRequest:
    """Checks the JSON of a request.

    Raises:
        RequestError: with the status and the code that OpenAI uses, naming the field.
    """
    given = checked_model(body, models)
    refuse(given, _SERVED, _NEUTRAL)
    options = given.get("stream_options", {})
    return ChatRequest(
        messages=_messages(given.get("messages")),
        sampling=checked_sampling(given),
        tools=_tools(given),
        template_options=checked_kind(given, "chat_template_kwargs", dict, {}),
        stream=checked_kind(given, "stream", bool, False),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        logprobs=checked_kind(given, "logprobs", bool, False),
        token_ids=checked_kind(given, "return_token_ids", bool, False),
    )


def checked_model(body: Any, models: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a request that are not null.

    Raises:
        RequestError: it is no object, or names another model.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if body.get("model") not in models:
        raise RequestError(
            f"the model `{body.get('model')}` does not exist; this engine serves {_names(models)}",
            param="model",
            code="model_not_found",
            status=404,
        )
    return {name: value for name, value in body.items() if value is not None}


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def refuse(given: Mapping[str, Any], served: set[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what would change the answer and is not served.

    Args:
        served: names of fields that are.
        neutral: values of others that change nothing; those that every request may have are known.

    Raises:
        RequestError: naming the field.
    """
    harmless = {**_NEUTRAL, **neutral}
    for name, value in given.items():
        if name in served or name in _IGNORED or (name in harmless and value in harmless[name]):
            continue
        shown = f" (given was {msgspec.json.encode(value).decode()[:80]})"
        raise RequestError(f"this engine does not support `{name}`{shown}; leave it out", param=name, code="unsupported_parameter")


def checked_kind(given: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field that must be of one type.

    Raises:
        RequestError: it is of another.
    """
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise RequestError(f"`{name}` must be {kind.__name__}, given was {value!r}", param=name, code="invalid_type")
    return value


def _number(given: Mapping[str, Any], name: str, default: float, low: float, high: float, *, above: bool = False) -> float:
    value = given.get(name, default)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    if not fits or (above and value == low):
        raise RequestError(
            f"`{name}` must be a number {'above' if above else 'from'} {low:g} {'up ' if above else ''}to {high:g}, given was {value!r}",
            param=name,
            code="invalid_value",
        )
    return float(value)


def whole_number(given: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int | None:
    """A field that must be a whole number.

    Raises:
        RequestError: it is something else, or out of range.
    """
    value = given.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"`{name}` must be a whole number from {low} to {high}, given was {value!r}", param=name, code="invalid_value")
    return value


def checked_sampling(given: Mapping[str, Any]) -> Sampling:
    """How to sample, in the field names of chat completions.

    Raises:
        RequestError: naming the field that is wrong.
    """
    longest = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    top = whole_number(given, "top_logprobs", 0, 0, 20)
    if top and not given.get("logprobs"):
        raise RequestError("`top_logprobs` needs `logprobs: true`", param="top_logprobs", code="invalid_value")
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(item, str) and item for item in stop):
        raise RequestError(
            f"`stop` must be a text or a list of texts, none of them empty, given was {stop!r}", param="stop", code="invalid_value"
        )
    return Sampling(
        temperature=_number(given, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(given, "top_p", 1.0, 0.0, 1.0, above=True),
        max_tokens=whole_number(given, longest, None, 1, 2**31),
        stop=tuple(stop),
        seed=whole_number(given, "seed", None, -(2**63), 2**63 - 1),
        n=whole_number(given, "n", 1, 1, 128) or 1,
        top_logprobs=top or 0,
    )


def _tools(given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise RequestError(
            f'`tool_choice` can be "auto" or "none", given was {choice!r}: this engine cannot force a call',
            param="tool_choice",
            code="unsupported_parameter",
        )
    tools = checked_kind(given, "tools", list, [])
    if not all(isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("function"), dict) for tool in tools):
        raise RequestError('each of `tools` must be an object of type "function"', param="tools", code="invalid_value")
    return tools if tools and choice == "auto" else None


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RequestError("`messages` must be a list with at least one message", param="messages", code="invalid_value")
    return [_message(item, f"messages[{index}]") for index, item in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"`{where}` must be an object, given was {value!r}", param=where, code="invalid_type")
    role = value.get("role")
    if role not in ROLES:
        raise RequestError(f"`{where}.role` is `{role}`; known are {_names(ROLES)}", param=f"{where}.role", code="invalid_value")
    for name in ("audio", "function_call"):
        if value.get(name) is not None:
            raise RequestError(f"this engine does not support `{name}` in a message", param=f"{where}.{name}", code="unsupported_parameter")
    message: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": _content(value.get("content"), f"{where}.content"),
    }
    for name in ("name", "tool_call_id", "reasoning_content"):
        if value.get(name) is not None:
            message[name] = value[name]
    if value.get("tool_calls"):
        message["tool_calls"] = [_tool_call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(value["tool_calls"])]
    elif value.get("content") is None:
        raise RequestError(f"`{where}` has no content", param=f"{where}.content", code="invalid_value")
    return message


def _content(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise RequestError(f"`{where}` must be a text or a list of parts, given was {value!r}", param=where, code="invalid_type")
    for index, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f"`{where}[{index}]` is of type `{kind}`; this engine reads text only",
                param=f"{where}[{index}]",
                code="unsupported_content",
            )
    return "".join(part["text"] for part in value)


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """Templates print arguments as JSON themselves, so they take objects; a text would be quoted twice."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(f"`{where}` must be an object with a `function` that has a `name`", param=where, code="invalid_value")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # What does not parse the model itself wrote; the template shows it as it was.
        with contextlib.suppress(msgspec.DecodeError):
            arguments = msgspec.json.decode(arguments)
    return {"id": call.get("id"), "type": "function", "function": {"name": function["name"], "arguments": arguments}}
