"""The language model behind critic and editor: an OpenAI-compatible endpoint, a client object, or an async function.

Nothing is sent but the model's name, the messages and the parameters that the user gave: what one endpoint takes, another refuses.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from agl.errors import AglError, ConfigError
from agl.gateway.wire import PLACEHOLDER_KEY

Messages = list[dict[str, str]]
OPENAI = "https://api.openai.com/v1"
RETRIED = frozenset({408, 409, 425, 429})
"""HTTP statuses, beside 500 and above, after which the same request may succeed."""


class ModelError(AglError):
    """The model of critic or editor cannot be reached, or refuses; the message says which and why."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; an async function that stands for a model may return it in place of the text alone."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices; added to what the prices make of the tokens."""


Transport = Callable[[Messages], Awaitable[Completion]]


class _Again(Exception):
    """A failure after which the same request may succeed; `wait` seconds at least, as the endpoint asked."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class Usage(msgspec.Struct, kw_only=True):
    """What asking took."""

    requests: int = 0
    failures: int = 0
    """Tries that brought no answer."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class Model:
    """Asks one model, with retries, a deadline and a limit.

    Args:
        transport: sends one request.
        name: for messages.
        timeout: seconds for one answer, retries included.
        retries: further tries after 429, 5xx and broken connections.
        backoff: seconds before the first retry; doubled for each one after it.
        concurrency: most requests at the same time.
        price: of a million input tokens and of a million output tokens.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        timeout: float = 300.0,
        retries: int = 4,
        backoff: float = 1.0,
        concurrency: int = 8,
        price: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.name, self.usage = name, Usage()
        self._transport, self._timeout, self._retries, self._backoff = transport, timeout, retries, backoff
        self._concurrency, self._price = concurrency, price
        self._gate: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def ask(self, messages: Messages) -> Completion:
        """One answer, its cost counted.

        Raises:
            ModelError: no answer, after the retries or in time.
        """
        last = [""]
        try:
            async with self._limit(), asyncio.timeout(self._timeout):
                answer = await self._tried(messages, last)
        except TimeoutError:
            self.usage.failures += 1
            why = f"; last: {last[-1]}" if last[-1] else ""
            raise ModelError(f"{self.name} gave no answer within {self._timeout:g} s{why}") from None
        tokens = (answer.input_tokens, answer.output_tokens)
        cost = answer.cost + sum(price * number / 1e6 for price, number in zip(self._price, tokens, strict=True))
        usage = self.usage
        usage.requests, usage.cost = usage.requests + 1, usage.cost + cost
        usage.input_tokens, usage.output_tokens = usage.input_tokens + tokens[0], usage.output_tokens + tokens[1]
        return msgspec.structs.replace(answer, cost=cost)

    async def _tried(self, messages: Messages, last: list[str]) -> Completion:
        for number in range(self._retries + 1):
            try:
                return await self._transport(messages)
            except _Again as error:
                last.append(str(error))
                self.usage.failures += 1
                if number < self._retries:
                    await asyncio.sleep(max(self._backoff * 2**number, error.wait))
        raise ModelError(f"{self.name} failed {self._retries + 1} times; last: {last[-1]}")

    def _limit(self) -> asyncio.Semaphore:
        """At most so many at once in this event loop; each `fit` has a loop of its own."""
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            self._gate = loop, asyncio.Semaphore(self._concurrency)
        return self._gate[1]


def over_http(endpoint: str, model: str, api_key: str | None, parameters: Mapping[str, Any]) -> Transport:
    """Chat completions of an OpenAI-compatible endpoint.

    Raises:
        ConfigError: no URL.
    """
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise ConfigError(f"APO's `endpoint` must be a URL such as http://127.0.0.1:8000/v1, given was {endpoint!r}")
    url, headers = f"{endpoint.rstrip('/')}/chat/completions", {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def complete(messages: Messages) -> Completion:
        import aiohttp

        forever = aiohttp.ClientTimeout(total=None)  # the model's own deadline counts
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=forever) as session,
                session.post(url, json={"model": model, "messages": messages, **parameters}) as response,
            ):
                content = await response.read()
                if response.status >= 400:
                    said = f"HTTP {response.status}: {content[:300].decode(errors='replace')}"
                    raise _failed(f"{model} at {endpoint}", response.status, said, response.headers.get("Retry-After"))
                return _completion(json.loads(content))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _Again(f"{type(error).__name__}: {error}") from error

    return complete


def over_client(client: Any, model: str, parameters: Mapping[str, Any]) -> Transport:
    """`client.chat.completions.create`, as `openai.AsyncOpenAI` has it; the SDK itself is not needed."""

    async def complete(messages: Messages) -> Completion:
        try:
            answer = await client.chat.completions.create(model=model, messages=messages, **parameters)
        except Exception as error:  # the client's own classes are not known here
            status = getattr(error, "status_code", None)
            raise _failed(f"{model} by {type(client).__name__}", status, f"{type(error).__name__}: {error}") from error
        return _completion(answer if isinstance(answer, dict) else answer.model_dump())

    return complete


def over_function(function: Callable[..., Any]) -> Transport:
    """An async function of the messages that returns a text or a `Completion`."""

    async def complete(messages: Messages) -> Completion:
        try:
            answer = function(messages)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            raise _Again(f"{type(error).__name__}: {error}") from error
        if isinstance(answer, Completion):
            return answer
        if not isinstance(answer, str):
            raise ModelError(f"the function {_name(function)} must return a text or an `agl_apo.model.Completion`, it returned {answer!r}")
        return Completion(text=answer)

    return complete


def _failed(who: str, status: Any, said: str, wait: str | None = None) -> Exception:
    if isinstance(status, int) and status < 500 and status not in RETRIED:
        return ModelError(f"{who} refused: {said}")
    try:
        return _Again(said, float(wait or 0.0))
    except ValueError:  # a date
        return _Again(said)


def _completion(answer: Any) -> Completion:
    try:
        usage: Mapping[str, Any] = answer.get("usage") or {}
        tokens: Sequence[int] = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        text = answer["choices"][0]["message"]["content"] or ""
        return Completion(text=str(text), input_tokens=tokens[0], output_tokens=tokens[1])
    except (LookupError, TypeError, AttributeError) as error:
        raise _Again(f"the answer is no chat completion ({type(error).__name__}: {error}): {str(answer)[:200]}") from error


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


def make_models(given: Any, options: ModelOptions) -> tuple[Model, Model]:
    """Critic and editor.

    Args:
        given: a client object, an async function, or None for an endpoint.

    Raises:
        ConfigError: options that have no effect together, no key, no model's name, or an object that is no client.
    """
    parameters = dict(options.parameters)
    if options.diversity_temperature is not None:
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
        return _models(options, *((over_client(given, name, parameters), name) for name in names))
    key = _key(options.api_key, home)
    return _models(options, *((over_http(home, name, key, parameters), f"{name} at {home}") for name in names))


def _models(options: ModelOptions, critic: tuple[Transport, str], editor: tuple[Transport, str]) -> tuple[Model, Model]:
    def make(transport: Transport, name: str) -> Model:
        return Model(
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
