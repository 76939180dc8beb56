"""Chat: asks a language model that judges, criticises or edits; with retries, a deadline, a limit and its costs counted.

Not for the agent's own calls, which go through the gateway. Nothing is sent but the model's name, the messages and the parameters that the
user gave: what one endpoint takes, another refuses.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from agl.errors import AglError, ConfigError
from agl.store.encoding import printable

Messages = list[dict[str, str]]
RETRIED = frozenset({408, 409, 425, 429})
"""HTTP statuses, beside 500 and above, after which the same request may succeed."""


class ModelError(AglError):
    """A model cannot be reached, or refuses; the message says which and why."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices; added to what the prices make of the tokens."""


Transport = Callable[[Messages], Awaitable[Completion]]
"""Sends one request. It raises `Again` where another try may help, and `Refused` where none does."""


class Refused(Exception):
    """What an endpoint said that will say the same again."""


class Again(Exception):
    """A failure after which the same request may succeed; `wait` seconds at least, as the endpoint asked."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class ChatUsage(msgspec.Struct, kw_only=True):
    """What asking took."""

    requests: int = 0
    failures: int = 0
    """Tries that brought no answer."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


class ChatModel:
    """Asks one model.

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
        self.name, self.usage = name, ChatUsage()
        self._transport, self._timeout, self._retries, self._backoff = transport, timeout, retries, backoff
        self._concurrency, self._price = concurrency, price
        self._gate: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def ask(self, messages: Messages) -> Completion:
        """One answer, its cost counted.

        Raises:
            ModelError: no answer, after the retries or in time.
        """
        last: list[str] = []
        try:
            async with self._limit(), asyncio.timeout(self._timeout):
                answer = await self._tried(messages, last)
        except TimeoutError:
            self.usage.failures += 1
            raise ModelError(f"{self.name} gave no answer within {self._timeout:g} s{'; last: ' + last[-1] if last else ''}") from None
        tokens = (answer.input_tokens, answer.output_tokens)
        cost = answer.cost + sum(price * number / 1e6 for price, number in zip(self._price, tokens, strict=True))
        usage = self.usage
        usage.requests, usage.cost = usage.requests + 1, usage.cost + cost
        usage.input_tokens, usage.output_tokens = usage.input_tokens + tokens[0], usage.output_tokens + tokens[1]
        return msgspec.structs.replace(answer, text=printable(answer.text), cost=cost)

    async def _tried(self, messages: Messages, last: list[str]) -> Completion:
        for number in range(self._retries + 1):
            try:
                return await self._transport(messages)
            except Refused as error:
                raise ModelError(f"{self.name} refused: {error}") from error.__cause__
            except Again as error:
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


def over_http(owner: str, endpoint: str, model: str, api_key: str | None, parameters: Mapping[str, Any]) -> Transport:
    """Chat completions of an OpenAI-compatible endpoint.

    Args:
        owner: whose `endpoint` it is, for a message.

    Raises:
        ConfigError: no URL.
    """
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise ConfigError(f"{owner} `endpoint` must be a URL such as http://127.0.0.1:8000/v1, given was {endpoint!r}")
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
                    raise failed(response.status, said, response.headers.get("Retry-After"))
                return completion(json.loads(content))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Again(f"{type(error).__name__}: {error}") from error

    return complete


def failed(status: Any, said: str, wait: str | None = None) -> Again | Refused:
    """What a transport raises for an HTTP status; `wait` is the header `Retry-After`."""
    if isinstance(status, int) and status < 500 and status not in RETRIED:
        return Refused(said)
    try:
        return Again(said, float(wait or 0.0))
    except ValueError:  # a date
        return Again(said)


def completion(answer: Any) -> Completion:
    """The answer in the form of OpenAI's chat completions.

    Raises:
        Again: it has another form.
    """
    try:
        usage: Mapping[str, Any] = answer.get("usage") or {}
        tokens: list[int] = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        text = answer["choices"][0]["message"]["content"] or ""
        return Completion(text=str(text), input_tokens=tokens[0], output_tokens=tokens[1])
    except (LookupError, TypeError, AttributeError) as error:
        raise Again(f"the answer is no chat completion ({type(error).__name__}: {error}): {str(answer)[:200]}") from error
