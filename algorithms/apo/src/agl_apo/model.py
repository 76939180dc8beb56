"""The language model behind critic and editor: an OpenAI-compatible endpoint, a client object, or an async function."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from agl.chat import Again, ChatModel, Completion, Messages, ModelError, Transport, completion, failed, over_http
from agl.errors import ConfigError
from agl.gateway.wire import PLACEHOLDER_KEY

__all__ = ["Completion", "ModelError", "ModelOptions", "make_models", "over_client", "over_function"]
OPENAI = "https://api.openai.com/v1"


def over_client(client: Any, model: str, parameters: Mapping[str, Any]) -> Transport:
    """`client.chat.completions.create`, as `openai.AsyncOpenAI` has it; the SDK itself is not needed."""

    async def complete(messages: Messages) -> Completion:
        try:
            answer = await client.chat.completions.create(model=model, messages=messages, **parameters)
        except Exception as error:  # the client's own classes are not known here
            status = getattr(error, "status_code", None)
            raise failed(status, f"{type(error).__name__}: {error}") from error
        return completion(answer if isinstance(answer, dict) else answer.model_dump())

    return complete


def over_function(function: Callable[..., Any]) -> Transport:
    """An async function of the messages that returns a text or a `Completion`."""

    async def complete(messages: Messages) -> Completion:
        try:
            answer = function(messages)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            raise Again(f"{type(error).__name__}: {error}") from error
        if isinstance(answer, Completion):
            return answer
        if not isinstance(answer, str):
            raise ModelError(f"the function {_name(function)} must return a text or an `agl_apo.model.Completion`, it returned {answer!r}")
        return Completion(text=answer)

    return complete


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How critic and editor are asked."""

    endpoint: str | None = None
    """Base URL with its `/v1`; without one `OPENAI_BASE_URL`, else OpenAI's own."""
    api_key: str | None = None
    """The key, or `$NAME` for the environment variable that holds it; without one `OPENAI_API_KEY`."""
    model: str | None = None
    """Model of critic and editor; the names below go before it."""
    gradient_model: str | None = None
    """Model of the critic; `gpt-5-mini` at OpenAI and for a client object unless told, as in Agent Lightning."""
    apply_edit_model: str | None = None
    """Model of the editor; `gpt-4.1-mini` there unless told."""
    diversity_temperature: float | None = None
    """`temperature` of each request; None sends none."""
    parameters: dict[str, Any] = {}
    """Further fields of each request, such as `{"max_tokens": 2000}`."""
    timeout: float = 300.0
    """Seconds for one answer, retries included."""
    retries: int = 4
    """Further tries after 429, 5xx and broken connections."""
    backoff: float = 1.0
    """Seconds before the first retry; doubled for each one after it."""
    model_concurrency: int = 8
    """Most requests at the same time, each to critic and to editor."""
    price: tuple[float, float] = (0.0, 0.0)
    """Of a million input tokens and of a million output tokens of critic and editor."""


def make_models(given: Any, options: ModelOptions) -> tuple[ChatModel, ChatModel]:
    """Critic and editor.

    Args:
        given: a client object, an async function, or None for an endpoint.

    Raises:
        ConfigError: options that have no effect together, no key, no model's name, or an object that is no client.
    """
    parameters = dict(options.parameters)
    if options.model is not None and None not in (options.gradient_model, options.apply_edit_model):
        raise ConfigError("`model` has no effect beside `gradient_model` and `apply_edit_model`, which name both models; leave it out")
    if options.diversity_temperature is not None:
        if "temperature" in parameters:
            raise ConfigError("`diversity_temperature` and `parameters['temperature']` are the same field of a request; give one of them")
        parameters["temperature"] = options.diversity_temperature
    if given is not None and (named := [name for name in ("endpoint", "api_key") if getattr(options, name) is not None]):
        raise ConfigError(f"{named} have no effect beside `async_openai_client`, which has its own; leave them out")
    if callable(given) and not hasattr(given, "chat"):
        return _models(options, *_by_function(given, options, parameters))
    if given is not None:
        _check_client(given)
    home = options.endpoint or os.environ.get("OPENAI_BASE_URL") or OPENAI
    names = _names(home if given is None else OPENAI, options)  # whoever brings a client has a model of these names, or says another
    if given is not None:
        return _models(options, *((over_client(given, name, parameters), f"{name} by {type(given).__name__}") for name in names))
    key = _key(options.api_key, home)
    return _models(options, *((over_http("APO's", home, name, key, parameters), f"{name} at {home}") for name in names))


def _models(options: ModelOptions, critic: tuple[Transport, str], editor: tuple[Transport, str]) -> tuple[ChatModel, ChatModel]:
    def make(transport: Transport, name: str) -> ChatModel:
        return ChatModel(
            transport,
            name,
            timeout=options.timeout,
            retries=options.retries,
            backoff=options.backoff,
            concurrency=options.model_concurrency,
            price=options.price,
        )

    return make(*critic), make(*editor)


def _by_function(function: Any, options: ModelOptions, parameters: Mapping[str, Any]) -> list[tuple[Transport, str]]:
    named = [name for name in ("model", "gradient_model", "apply_edit_model") if getattr(options, name) is not None]
    if named or parameters:
        raise ConfigError(f"{[*named, *parameters]} have no effect: the function that is given as the model decides for itself")
    return [(over_function(function), _name(function))] * 2


def _names(home: str, options: ModelOptions) -> tuple[str, str]:
    at_openai = urlsplit(home).hostname == urlsplit(OPENAI).hostname
    names = (
        options.gradient_model or options.model or ("gpt-5-mini" if at_openai else None),
        options.apply_edit_model or options.model or ("gpt-4.1-mini" if at_openai else None),
    )
    if None in names:
        raise ConfigError(f"APO needs the name of a model at {home} to criticise and edit prompts: say `model=…`")
    return cast("tuple[str, str]", names)


def _key(given: str | None, home: str) -> str | None:
    if given is not None and not given.startswith("$"):
        return given
    name = given[1:] if given else "OPENAI_API_KEY"
    key = os.environ.get(name)
    if key == PLACEHOLDER_KEY:  # what a Trainer puts there for clients that insist on one
        key = None
    if key is None and (given or home == OPENAI):
        raise ConfigError(
            f"APO asks {home} to criticise and edit prompts, and the environment variable `{name}` is not set; "
            "export it, or give `endpoint=` and `model=` of another server, a client object, or an async function"
        )
    return key


def _check_client(client: Any) -> None:
    create = getattr(getattr(getattr(client, "chat", None), "completions", None), "create", None)
    if create is None:
        raise ConfigError(
            f"`async_openai_client` must have `chat.completions.create`, as openai.AsyncOpenAI has, or be an async function of messages; "
            f"given was {client!r}"
        )
    if not inspect.iscoroutinefunction(inspect.unwrap(create)):
        raise ConfigError(
            f"`async_openai_client` must be an asynchronous client, such as openai.AsyncOpenAI; given was {type(client).__name__}"
        )


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__
