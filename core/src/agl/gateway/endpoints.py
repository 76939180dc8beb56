"""The endpoints of a model: which one a call goes to, which ones work, and what is tried again.

The calls of a rollout stay with one endpoint, since that one holds the prefixes of its prompts. Only what has not
answered a byte is tried again: an endpoint that cannot be reached, or that says it has no room.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import msgspec

from agl.errors import ConfigError
from agl.resources import LLM

BUSY = frozenset({429, 503})
"""Statuses by which an endpoint says that it has no room now."""
_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Errors before anything was sent."""

Send = Callable[[str], AbstractAsyncContextManager[aiohttp.ClientResponse]]


class Patience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is tried before a call fails. Times in seconds."""

    tries: int = 4
    """Requests in all; 1 tries nothing again."""
    backoff: float = 0.1
    """Before the second try where no other endpoint is left; doubled with each further one."""
    longest_wait: float = 2.0
    """An endpoint that asks for more than this (`Retry-After`) is not waited for: the client hears it, and may wait by itself."""
    check_every: float = 2.0
    """Between looks at an endpoint that is down."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.check_every <= 0 or min(self.backoff, self.longest_wait) < 0:
            raise ConfigError(
                f"`tries` must be at least 1, `check_every` positive, `backoff` and `longest_wait` not negative; given was {self}"
            )


def read_patience(given: Any) -> Patience:
    """What the Trainer's option `patience` says, over the defaults.

    Raises:
        ConfigError: an unknown name, or a value that cannot work.
    """
    if isinstance(given, Patience):
        return given
    try:
        return msgspec.convert(given if given is not None else {}, Patience)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"`patience` takes {list(Patience.__struct_fields__)}, such as {{'tries': 6}}, given was {given!r}: {error}"
        ) from None


class Endpoint:
    """One address of a model."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.running = 0
        """Calls that are on their way."""
        self.rollouts = 0
        """Rollouts that stay with it."""
        self.down = False

    def load(self) -> tuple[bool, int, int]:
        """What is least for the one to take."""
        return self.down, self.running, self.rollouts


class Endpoints:
    """All endpoints that were called.

    Args:
        alive: whether an address answers: asked while it is down.
    """

    def __init__(
        self, alive: Callable[[str], AbstractAsyncContextManager[aiohttp.ClientResponse]], patience: Patience | None = None
    ) -> None:
        self._alive, self.patience = alive, patience or Patience()
        self._known: dict[str, Endpoint] = {}
        self._stays: dict[str, dict[tuple[str, ...], Endpoint]] = {}
        """By rollout, then by the model's addresses."""
        self._checks: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def reach(self, llm: LLM, rollout_id: str, send: Send) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer of an endpoint, whose body is not read yet.

        Args:
            send: makes the request to an address.

        Raises:
            aiohttp.ClientError: no endpoint gave an answer; the last one's error.
        """
        avoid: set[str] = set()
        for number in range(1, self.patience.tries + 1):
            async with contextlib.AsyncExitStack() as stack:
                endpoint = stack.enter_context(self._taken(llm, rollout_id, avoid))
                avoid.add(endpoint.url)
                others = any(item not in avoid and not self._known[item].down for item in _urls(llm))
                try:
                    answer = await stack.enter_async_context(send(endpoint.url))
                except (*_UNSENT, aiohttp.ServerDisconnectedError) as error:
                    if isinstance(error, _UNSENT):
                        self._is_down(endpoint)
                    if number == self.patience.tries or not (others or endpoint.down):
                        raise
                    wait: float | None = self.patience.backoff * 2 ** (number - 1)
                else:
                    wait = self._wait(answer) if answer.status in BUSY else None
                    if answer.status not in BUSY or number == self.patience.tries or (wait is None and not others):
                        yield answer
                        return
            if not others:
                await asyncio.sleep(wait or 0.0)
                avoid.clear()

    def forget(self, rollout_id: str) -> None:
        """A rollout has ended: it stays with no endpoint any more."""
        for endpoint in self._stays.pop(rollout_id, {}).values():
            endpoint.rollouts -= 1

    async def stop(self) -> None:
        """End the looks at endpoints that are down."""
        for task in self._checks.values():
            task.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)

    @contextlib.contextmanager
    def _taken(self, llm: LLM, rollout_id: str, avoid: set[str]) -> Generator[Endpoint]:
        """The endpoint that the rollout stays with; another one, and from then on that one, where it is down or to be avoided."""
        urls = _urls(llm)
        all_ = [self._known.setdefault(url, Endpoint(url)) for url in urls]
        stays = self._stays.setdefault(rollout_id, {})
        endpoint = stays.get(urls)
        if endpoint is None or endpoint.down or endpoint.url in avoid:
            if endpoint is not None:
                endpoint.rollouts -= 1
            endpoint = min([item for item in all_ if item.url not in avoid] or all_, key=Endpoint.load)
            endpoint.rollouts += 1
            stays[urls] = endpoint
        endpoint.running += 1
        try:
            yield endpoint
        finally:
            endpoint.running -= 1

    def _wait(self, answer: aiohttp.ClientResponse) -> float | None:
        """Seconds that a busy endpoint asks for; None when it does not say, or asks for too many."""
        said = retry_after(answer.headers)
        return said if said is not None and said <= self.patience.longest_wait else None

    def _is_down(self, endpoint: Endpoint) -> None:
        endpoint.down = True
        check = self._checks.get(endpoint.url)
        if check is None or check.done():
            self._checks[endpoint.url] = asyncio.ensure_future(self._check(endpoint))

    async def _check(self, endpoint: Endpoint) -> None:
        """Look at an endpoint until it answers again. Whatever it answers: a refusal is an answer, too."""
        while endpoint.down:
            await asyncio.sleep(self.patience.check_every)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._alive(endpoint.url) as answer:
                    endpoint.down = answer.status >= 500


def _urls(llm: LLM) -> tuple[str, ...]:
    return (llm.endpoint, *llm.endpoints)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` (seconds, or a date) ask to wait; None when they say nothing that can be read."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        said = headers.get("Retry-After")
        return None if said is None else max(0.0, _seconds(said))
    except (ValueError, TypeError):
        return None


def _seconds(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        return email.utils.parsedate_to_datetime(said).timestamp() - time.time()
