"""The gateway's HTTP side: one base URL and one key per attempt.

`/r/<rollout>/<attempt>/v1/…` is an endpoint in OpenAI's and Anthropic's dialects for that attempt alone and ends with it. The attempt id is
unguessable, so the URL alone is enough for a client that can set nothing else; a client that sends an AGL key must send
the attempt's own. The upstream's key stays here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AbstractAsyncContextManager

import msgspec
from aiohttp import web

from agl.context import ActiveAttempt
from agl.errors import ConfigError, GatewayError
from agl.gateway.attempts import OpenAttempt
from agl.gateway.endpoints import Patience
from agl.gateway.forward import Forwarder
from agl.gateway.gate import PAUSE_SECONDS
from agl.gateway.recorder import Recorder
from agl.gateway.routes import Routes
from agl.resources import LLM
from agl.store.base import Store

MAX_BODY = 64 * 2**20


class Gateway:
    """Forwards the LLM calls of open attempts and records each.

    Args:
        store: where spans go.
        host: address to bind; the loopback unless told.
        port: 0 for any free one.
        patience: with endpoints that do not answer.
    """

    def __init__(self, store: Store, *, host: str = "127.0.0.1", port: int = 0, patience: Patience | None = None) -> None:
        self._host, self._port = host, port
        self._open: dict[str, OpenAttempt] = {}
        self._recorder = Recorder(store)
        self._forwarder = Forwarder(self._recorder, patience)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            GatewayError: the port is in use.
        """
        app = web.Application(client_max_size=MAX_BODY)
        Routes(self._open, self._forwarder, self._recorder).add_to(app.router)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise GatewayError(
                f"the gateway cannot listen on {self._host}:{self._port}: {error.strerror or error}; "
                "choose another port (`gateway_port=`, 0 for any free one)"
            ) from error
        port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{port}"
        await self._forwarder.start()

    async def stop(self) -> None:
        """Stop listening, and let go of connections when what was called is in the store."""
        for attempt_id in list(self._open):
            self._open.pop(attempt_id).stop_calls()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._forwarder.stop()
        await self._recorder.stop()

    def open(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> dict[str, LLM]:
        """Let an attempt call these models; returns each as the attempt's agent may use it.

        Raises:
            ConfigError: two models share a name, so that a call could not say which it means.
        """
        models: dict[str, str] = {}
        for name, llm in upstreams.items():
            other = models.setdefault(llm.model, name)
            if upstreams[other].endpoint != llm.endpoint:
                raise ConfigError(
                    f"the resources `{other}` and `{name}` both have the model name `{llm.model}`, at different endpoints, "
                    "and calls are told apart by it; give one of the models another name at its server"
                )
        opened = self._open[attempt.attempt_id] = OpenAttempt(attempt, upstreams)
        url = f"{self.url}/r/{attempt.rollout.rollout_id}/{attempt.attempt_id}/v1"
        return {
            name: msgspec.structs.replace(
                llm,
                endpoint=url,
                endpoints=(),
                deadline=None,
                api_key=opened.key,
                sampling_parameters=llm.parameters(str(attempt.rollout.mode)),
                eval_parameters={},
            )
            for name, llm in upstreams.items()
        }

    @contextlib.asynccontextmanager
    async def paused(self, models: Collection[str] | None = None, *, timeout: float = PAUSE_SECONDS) -> AsyncGenerator[None]:
        """For a change of weights: no call to these models (all, when none are named) is on its way in the block; new ones wait for its end.

        Args:
            timeout: seconds to wait for the calls that are on their way.

        Raises:
            GatewayError: they did not end in time; then nothing is paused any more.
        """
        with self._forwarder.gate.paused(models):
            await self._forwarder.gate.drained(models, timeout)
            yield

    @contextlib.asynccontextmanager
    async def stalled(self, models: Collection[str], engine: AbstractAsyncContextManager[object]) -> AsyncGenerator[None]:
        """For an engine that holds calls to these models up by itself, in a context of its own: what calls wait there is not their attempts' time."""
        gate = self._forwarder.gate
        with gate.stalled(models, all_of_them=False):  # while running answers end, others wait
            async with engine:
                with gate.stalled(models):
                    yield

    async def close(self, attempt_id: str) -> None:
        """End an attempt's access, and its calls that are on their way; returns when all its calls are in the store.

        Raises:
            StoreError: they could not be stored.
        """
        opened = self._open.pop(attempt_id, None)
        if opened is None:
            return
        if calls := opened.stop_calls():
            await asyncio.wait(calls)
        self._forwarder.endpoints.forget(opened.attempt.rollout.rollout_id)
        await self._recorder.written()
