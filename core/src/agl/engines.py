"""Engine: serves the policy under training; the contract of every driver of `agl.engines`, checked by `agl.testing.engines`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from agl.resources import LLM


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The model under training, as its learner has it."""

    module: Any
    """The live model (a causal LM, `torch.nn.Module`). Its parameters are what is served; the learner changes them in place."""
    tokenizer: Any
    """Its tokenizer, with a chat template."""
    path: str = ""
    """Folder or hub id that the model was loaded from, for an engine in another process that loads it itself."""
    version: str = "0"
    """Version of the weights at the start."""


class Engine(ABC):
    """Serves a policy on an OpenAI-compatible endpoint, and takes new weights while it serves.

        endpoint = await engine.start(policy)
        async with engine.paused():
            learn(policy.module)
            await engine.update("1")
        await engine.stop()

    The endpoint answers `GET /v1/models` and `POST /v1/chat/completions` (streamed, too), with vLLM's additions: for
    `return_token_ids` the answer has `prompt_token_ids`, and each choice `token_ids`; `logprobs` are those of the sampled
    tokens at the temperature that was asked for. The ids are the engine's own: never made again from the text. Each answer
    tells the version of the weights that sampled all of it as `weight_version`. (vLLM does not tell it: its version is that of
    the resource, which `paused` keeps right.) A `seed` repeats its answer, whatever else is
    sampled at the same time. A request that cannot be served is refused with a 4xx in OpenAI's form.

    An engine that shares memory with the learner serves `policy.module` itself; one in another process moves the parameters
    in `update`. An algorithm calls both in the same way. One engine serves one policy at a time; after `stop` it can be
    started again.

    Args:
        max_batch: most answers that are sampled at once.
        max_tokens: longest answer of a request that does not say.
        host: address to listen on.
        port: 0 for any free one.
    """

    name = "engine"
    model = "policy"
    """The model's name in requests."""
    holds_calls = True
    """Whether `paused` holds new requests up by itself. For an engine that cannot, `Run.paused` has the gateway do it."""

    def __init__(self, *, max_batch: int = 64, max_tokens: int = 256, host: str = "127.0.0.1", port: int = 0) -> None:
        self.max_batch, self.max_tokens, self.host, self.port = max_batch, max_tokens, host, port
        self.endpoint = ""
        """Base URL with its `/v1`, while it serves."""

    @abstractmethod
    async def start(self, policy: Policy) -> str:
        """Serve a policy; returns the base URL with its `/v1`, which `endpoint` is from then on.

        Raises:
            EngineError: the model cannot be served, or the address cannot be had.
        """

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the weights that are served."""

    @abstractmethod
    def paused(self, timeout: float = 600.0) -> AbstractAsyncContextManager[Any]:
        """A context in which nothing is sampled: running answers end first, new requests wait and are answered after it.

        Args:
            timeout: seconds to wait for running answers.

        Raises:
            EngineError: on entering, when they did not end in time; the engine goes on.
        """

    @abstractmethod
    async def update(self, version: str) -> None:
        """Serve the policy's parameters as they are now, under this version; called within `paused()`.

        Raises:
            EngineError: the weights could not be taken.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Stop serving; requests in work fail. Nothing is left behind, and stopping what never started does nothing."""

    def llm(self, **values: Any) -> LLM:
        """The policy as it is now, for agents: a resource with endpoint, model and version; other fields as given."""
        known: dict[str, Any] = {"endpoint": self.endpoint, "model": self.model, "version": self.version, "seeded": True}
        return LLM(**{**known, **values})
