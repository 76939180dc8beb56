"""Engine: serves the policy under training from the very parameters that the learner updates.

One worker thread runs continuous batching: waiting requests join between two decoding steps, finished answers leave. The
learner changes the parameters inside `paused()`, when nothing is being sampled, so every answer is sampled by one version
of the weights and says which.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from agl.errors import EngineError
from agl_grpo.batch import Batch, Finished, Row, Sampled
from agl_grpo.memory import keep_freed_memory
from agl_grpo.sampling import Sampling
from agl_grpo.slots import Slots
from agl_grpo.text import decode
from agl_grpo.worker import Request, Worker


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    token_ids: list[int]
    """(T,) with the end-of-turn token where it was sampled, and the tokens of a stop string."""
    logprobs: list[float]
    """(T,) natural log, at the requested temperature, before `top_p`."""
    text: str
    """Without special tokens, cut before a stop string."""
    finish_reason: str
    """`stop` or `length`."""
    stop: str | None = None
    """The stop string that was met."""
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    """(T, K) most probable tokens with their log-probabilities, when asked for."""


@dataclass(frozen=True)
class Completion:
    """What one request gets."""

    prompt_ids: list[int]
    answers: list[Answer]
    version: str
    """Version of the weights that sampled all of it."""


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed request: one token, or the end of one answer (`finish_reason` set, no token)."""

    choice: int
    version: str
    token_id: int | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    finish_reason: str | None = None


class Engine:
    """Samples from a causal LM for many concurrent requests.

    Args:
        model: any causal LM of `transformers` whose layers are attention, full weights or a `peft` model.
        tokenizer: its tokenizer.
        max_batch: most answers that are sampled at once.
        max_wait: seconds that a request to an idle engine waits for others to join.
        max_model_len: longest prompt plus answer in tokens; default is the model's `max_position_embeddings`.
        default_max_tokens: longest answer when a request does not say.
        threads: CPU threads of the worker; None leaves torch's choice.
        queue_timeout: seconds after which a request that could not start fails.
        prefix_bytes: memory for keys and values of earlier prompts; 0 switches their reuse off.
        seed: makes requests without a seed repeatable in their order of arrival.
        version: version of the weights at the start.

    Raises:
        EngineError: the model cannot be served (recurrent layers, an attention without 4D masks).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_batch: int = 64,
        max_wait: float = 0.003,
        max_model_len: int | None = None,
        default_max_tokens: int = 256,
        threads: int | None = None,
        queue_timeout: float = 600.0,
        prefix_bytes: int = 256 * 2**20,
        seed: int | None = None,
        version: str = "0",
    ) -> None:
        model.eval()
        self.model, self.tokenizer = model, tokenizer
        self.max_batch, self.queue_timeout, self.default_max_tokens = max_batch, queue_timeout, default_max_tokens
        self._slots = Slots(model, prefix_bytes)
        if self._slots.device.type == "cpu":
            keep_freed_memory()
        longest = getattr(self._slots.config, "max_position_embeddings", None)
        self.max_model_len = int(max_model_len or longest or 4096)
        self._batch = Batch(self._slots, tokenizer, end_ids(model, tokenizer), max_batch)
        self.worker = Worker(self._batch, max_wait, threads, version)
        self._seeds = np.random.default_rng(seed)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> Completion:
        """Samples `sampling.n` answers to a prompt. Cancelling the call takes them out of the batch.

        Raises:
            EngineError: the prompt leaves no room for an answer, the request waited too long, or sampling failed.
        """
        sampling = sampling or Sampling()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(event: Any) -> None:
            if future.done():
                return
            if isinstance(event, BaseException):
                future.set_exception(event)
            elif isinstance(event, Finished) and len(request.answers) == sampling.n:
                future.set_result(None)

        request = Request(self._rows(prompt_ids, sampling, streamed=False), deliver)
        with self._asked(request):
            await future
        answers = [self._answer(request.answers[choice], sampling.stop) for choice in range(sampling.n)]
        return Completion(list(prompt_ids), answers, request.version or self.version)

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> AsyncGenerator[Delta]:
        """The same, token by token as they are sampled; closing the iterator takes the answers out of the batch.

        Raises:
            EngineError: as `generate`.
        """
        sampling = sampling or Sampling()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        request = Request(self._rows(prompt_ids, sampling, streamed=True), queue.put_nowait)
        left = sampling.n
        given = [0] * sampling.n
        with self._asked(request):
            while left:
                event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                choice, version = event.row.choice, request.version or self.version
                if isinstance(event, Sampled):
                    top = event.row.top[given[choice]] if event.row.top_logprobs else None
                    given[choice] += 1
                    yield Delta(choice, version, event.token_id, event.logprob, top)
                else:
                    left -= 1
                    yield Delta(choice, version, finish_reason=event.reason)

    def _rows(self, prompt_ids: Sequence[int], sampling: Sampling, streamed: bool) -> list[Row]:
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        room = self.max_model_len - len(prompt)
        if room < 1 or not len(prompt):
            raise EngineError(
                f"the prompt has {len(prompt)} tokens; with an answer it must fit into {self.max_model_len}, and not be empty"
            )
        if not 1 <= sampling.n <= self.max_batch:
            raise EngineError(f"`n` is {sampling.n}; it must be between 1 and `max_batch`, which is {self.max_batch}")
        seed = sampling.seed if sampling.seed is not None else int(self._seeds.integers(2**63))
        limit = min(sampling.max_tokens or self.default_max_tokens, room)
        shared = (prompt, limit, sampling.temperature, sampling.top_p, seed, sampling.stop, sampling.top_logprobs, streamed)
        return [Row(None, choice, *shared) for choice in range(sampling.n)]

    @contextlib.contextmanager
    def _asked(self, request: Request) -> Iterator[None]:
        self.worker.submit(request)
        expiry = request.loop.call_later(self.queue_timeout, self._expire, request)
        try:
            yield
        finally:
            expiry.cancel()
            request.cancel()

    def _expire(self, request: Request) -> None:
        if request.version is None:
            request.cancel()
            what = "is paused for an update" if self.worker.pauses else f"has {self._batch.size} of {self.max_batch} answers in work"
            request.deliver(EngineError(f"a request waited {self.queue_timeout:g} s and could not start: the engine {what}"))

    def _answer(self, done: Finished, stops: Sequence[str]) -> Answer:
        ids = done.token_ids
        shown = ids[:-1] if ids and self.ends(ids[-1]) else ids
        text, stop = decode(self.tokenizer, shown, stops)
        return Answer(ids, done.logprobs, text, done.reason, stop, done.row.top)

    def ends(self, token_id: int) -> bool:
        """Whether a token ends an answer (and is no part of its text)."""
        return self._batch.ends(token_id)

    @property
    def running(self) -> int:
        """Answers being sampled."""
        return self._batch.size

    @property
    def prefix_bytes_used(self) -> int:
        """Memory that remembered prompts take."""
        return self._slots.prefixes.size

    # --- versions -----------------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Version of the weights; set it inside `paused()`, after changing them."""
        return self.worker.version

    @version.setter
    def version(self, value: str) -> None:
        self.worker.version = value

    def paused(self, timeout: float = 600.0) -> Pause:
        """A context, for `with` and `async with`, in which nothing is sampled: running answers end first, new ones wait.

        Args:
            timeout: seconds to wait for running answers.

        Raises:
            EngineError: on entering, when they did not end in time.
        """
        return Pause(self, timeout)

    async def update_weights(self, version: str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Puts other weights in place of the present ones, and names them.

        Args:
            version: name of the new weights.
            weights: parameters by name, as `model.state_dict()` has them; None when they were changed in place already.
        """
        async with self.paused():
            if weights is not None:
                unknown = self.model.load_state_dict(dict(weights), strict=False).unexpected_keys
                if unknown:
                    raise EngineError(f"the model has no parameters {unknown[:3]}; the weights that it has were changed")
            self.version = version

    # --- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops the worker; requests in work fail."""
        self.worker.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Pause:
    """See `Engine.paused`."""

    def __init__(self, engine: Engine, timeout: float) -> None:
        self.engine, self.timeout = engine, timeout

    def __enter__(self) -> Engine:
        self.engine.worker.pause(self.timeout)
        return self.engine

    def __exit__(self, *error: object) -> None:
        self.engine.worker.resume()

    async def __aenter__(self) -> Engine:
        entering = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread goes on waiting; what it reaches must not stay.
            entering.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self.__exit__())
            raise

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()


def end_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the tokenizer, the generation config and the model's config."""
    named: list[Any] = [tokenizer.eos_token_id]
    named += [getattr(getattr(model, part, None), "eos_token_id", None) for part in ("generation_config", "config")]
    flat = [item for value in named for item in (value if isinstance(value, list | tuple) else [value])]
    return sorted({int(item) for item in flat if item is not None})
