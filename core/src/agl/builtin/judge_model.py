"""The language model behind a judge: an OpenAI-compatible endpoint, whose answers are parsed and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agl.chat import ChatModel, Messages, ModelError, over_http
from agl.errors import ConfigError

T = TypeVar("T")


class Unjudged(Exception):
    """The judge cannot be reached or understood; the message says why."""


class Usage(msgspec.Struct, kw_only=True):
    """What judging took."""

    requests: int = 0
    """Answers of the endpoint; those from the cache are not among them."""
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices; 0 without prices."""
    missing: int = 0
    """Judgements that could not be made."""

    def add(self, other: Usage) -> None:
        """Count another one in."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def details(self) -> dict[str, Any]:
        """For `Reward.details`."""
        told = {"requests": self.requests, "input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        return {**told, "cost": round(self.cost, 9), "cached": bool(self.cached)}

    def summary(self) -> str | None:
        """One line; None when nothing was asked."""
        if not (self.requests or self.cached or self.missing):
            return None
        cost = f", cost {self.cost:.4f}" if self.cost else ""
        told = f"{self.requests} requests, {self.cached} answers from the cache, {self.input_tokens}+{self.output_tokens} tokens{cost}"
        return told + (f", {self.missing} judgements missing" if self.missing else "")


class JudgeModel:
    """Asks one model.

    Args:
        endpoint: base URL with its `/v1`.
        api_key: the key, or `$NAME` for the environment variable that holds it.
        parameters: further fields of each request, such as `{"temperature": 0, "max_tokens": 500}`.
        timeout: seconds for one answer, retries included; one that cannot be parsed is asked for once more.
        retries: further tries after 429, 5xx and broken connections.
        backoff: seconds before the first retry; doubled for each one after it.
        concurrency: most requests at the same time.
        cache: True keeps answers in memory, a path keeps them in that folder, False keeps none.
        price: of a million input tokens and of a million output tokens.

    Raises:
        ConfigError: an option that cannot work.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        api_key: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 1.0,
        concurrency: int = 8,
        cache: bool | str | Path = True,
        price: tuple[float, float] | None = None,
    ) -> None:
        least: dict[str, tuple[Any, float]] = {"timeout": (timeout, 1e-3), "retries": (retries, 0), "backoff": (backoff, 0)}
        for name, (value, limit) in {**least, "concurrency": (concurrency, 1)}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= limit:
                raise ConfigError(f"a judge's `{name}` must be a number of at least {limit:g}, given was {value!r}")
        self.endpoint, self.model, self.parameters = endpoint.rstrip("/"), model, dict(parameters or {})
        self.usage = Usage()
        self._cache = Cache(cache)
        if price is not None and len(price) != 2:
            raise ConfigError(f"a judge's `price` is that of a million input and of a million output tokens, given was {price!r}")
        self._chat = ChatModel(
            over_http("a judge's", self.endpoint, model, _key(api_key), self.parameters),
            self.endpoint,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            concurrency=concurrency,
            price=price or (0.0, 0.0),
        )

    def config(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"endpoint": self.endpoint, "model": self.model, "parameters": self.parameters}

    async def ask(self, messages: Callable[[str], Messages], parse: Callable[[str], T]) -> tuple[T, Usage]:
        """The parsed answer and what it took.

        Args:
            messages: the request's messages for a delimiter, a random text that is in none of the data.
            parse: takes the answer's text; a ValueError is told to the model, once, with the question to mend its answer.

        Raises:
            Unjudged: no answer, or none that could be parsed.
        """
        key = _digest([self.config(), messages("")])
        known = self._cache.get(key)
        used = Usage(cached=int(known is not None))
        try:
            if known is None:
                known = await self._answer(messages(_delimiter(messages(""))), parse, used)
            parsed = parse(known)
            self._cache.put(key, known)
            return parsed, used
        except ValueError as error:
            used.missing = 1
            raise Unjudged(f"the answer of {self.model} cannot be read: {error}") from error
        except ModelError as error:
            used.missing = 1
            raise Unjudged(str(error)) from error
        finally:
            self.usage.add(used)

    async def _answer(self, messages: Messages, parse: Callable[[str], Any], used: Usage) -> str:
        """Text of the answer, mended once by the model itself where it cannot be parsed."""
        text = await self._complete(messages, used)
        try:
            parse(text)
            return text
        except ValueError as error:
            mend = f"That cannot be read: {error}. Answer again with the JSON object alone."
            said = [{"role": "assistant", "content": text}, {"role": "user", "content": mend}]
        return await self._complete([*messages, *said], used)

    async def _complete(self, messages: Messages, used: Usage) -> str:
        answer = await self._chat.ask(messages)
        used.add(Usage(requests=1, input_tokens=answer.input_tokens, output_tokens=answer.output_tokens, cost=answer.cost))
        return answer.text


def make_model(owner: str, endpoint: str, model: str, options: Mapping[str, Any]) -> JudgeModel:
    """The model behind a judge.

    Raises:
        ConfigError: an unknown option, or one that cannot work.
    """
    known = set(JudgeModel.__init__.__kwdefaults__ or ())
    if unknown := sorted(options.keys() - known):
        raise ConfigError(f"`{owner}` has no option {unknown}; beside its own it takes {sorted(known)}")
    return JudgeModel(endpoint, model, **options)


class Cache:
    """Answers by the digest of what was asked: in memory, or as files in a folder that later runs share."""

    def __init__(self, place: bool | str | Path) -> None:
        self._memory: dict[str, str] | None = {} if place is True else None
        self._folder = None if isinstance(place, bool) else Path(place)

    def get(self, key: str) -> str | None:
        """The answer, or None."""
        if self._folder is None:
            return None if self._memory is None else self._memory.get(key)
        try:
            return (self._folder / f"{key}.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; a file appears whole or not at all."""
        if self._memory is not None:
            self._memory[key] = answer
        if self._folder is not None and self.get(key) != answer:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"{key}.{secrets.token_hex(4)}.partial"
            partial.write_text(answer, encoding="utf-8")
            os.replace(partial, self._folder / f"{key}.txt")


def _delimiter(messages: Messages) -> str:
    texts = "".join(message["content"] for message in messages)
    while (drawn := secrets.token_hex(8)) in texts:
        pass
    return drawn


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _key(given: str | None) -> str | None:
    if given is None or not given.startswith("$"):
        return given
    if given[1:] not in os.environ:
        raise ConfigError(f"a judge's `api_key` names the environment variable `{given[1:]}`, which is not set; export it")
    return os.environ[given[1:]]
