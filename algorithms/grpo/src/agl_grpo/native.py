"""Native engine: the driver `native` of `agl.engines`, which samples from the very parameters that the learner changes."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

from agl.engines import Engine, Policy
from agl.errors import EngineError
from agl_grpo.engine import Engine as Sampler
from agl_grpo.server import Server


class NativeEngine(Engine):
    """Continuous batching on plain torch, in this process, on CPU or one GPU; see `agl_grpo.engine`.

    Args:
        threads: CPU threads of the sampling; None leaves torch's choice.
        options: see `agl.engines.Engine`.
    """

    name = "native"

    def __init__(self, *, threads: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.threads = threads
        self._sampler: Sampler | None = None
        self._server: Server | None = None

    async def start(self, policy: Policy) -> str:
        if self._sampler is not None:
            raise EngineError(f"the engine serves already, at {self.endpoint}; stop it first, or make another")
        sampler = Sampler(
            policy.module,
            policy.tokenizer,
            max_batch=self.max_batch,
            default_max_tokens=self.max_tokens,
            threads=self.threads,
            version=policy.version,
        )
        server = Server(sampler, self.host, self.port, model=self.model)
        try:
            self.endpoint = await server.start()
        except BaseException:
            sampler.close()
            raise
        self._sampler, self._server = sampler, server
        return self.endpoint

    @property
    def sampler(self) -> Sampler:
        """What samples, for use without HTTP.

        Raises:
            EngineError: the engine was not started.
        """
        if self._sampler is None:
            raise EngineError("the engine is not started; call `start(policy)` first")
        return self._sampler

    @property
    def version(self) -> str:
        return self.sampler.version

    def paused(self, timeout: float = 600.0) -> AbstractAsyncContextManager[Any]:
        return self.sampler.paused(timeout)

    async def update(self, version: str) -> None:
        # The parameters are shared: they have changed already. What is remembered of prompts goes when the pause ends.
        self.sampler.version = version

    async def stop(self) -> None:
        sampler, server = self._sampler, self._server
        self._sampler = self._server = None
        self.endpoint = ""
        if server is not None:
            await server.stop()
        if sampler is not None:
            await asyncio.to_thread(sampler.close)
