"""Engine: serves the policy under training from the very parameters that the learner updates.

One worker thread runs continuous batching: waiting requests join between two decoding steps, finished answers leave. The
learner changes the parameters inside `paused()`, when nothing is being sampled, so every answer is sampled by one version
of the weights and says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agl.errors import EngineError
from agl_grpo.batch import Batch, Finished, Row, Sampled
from agl_grpo.memory import keep_freed_memory
from agl_grpo.sampling import Sampling
from agl_grpo.slots import Slots
from agl_grpo.text import decode


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


class _Request:
    """One request between its coroutine and the worker."""

    def __init__(self, rows: Sequence[Row], deliver: Callable[[Any], None]) -> None:
        self.rows = list(rows)
        self.deliver = deliver
        self.loop = asyncio.get_running_loop()
        self.version: str | None = None
        self.answers: dict[int, Finished] = {}
        for row in rows:
            row.request = self

    def cancel(self) -> None:
        for row in self.rows:
            row.cancelled = True

    @property
    def cancelled(self) -> bool:
        return self.rows[0].cancelled


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
        self.max_batch, self.max_wait, self.queue_timeout = max_batch, max_wait, queue_timeout
        self.default_max_tokens, self.threads = default_max_tokens, threads
        self._slots = Slots(model, prefix_bytes)
        if self._slots.device.type == "cpu":
            keep_freed_memory()
        longest = getattr(self._slots.config, "max_position_embeddings", None)
        self.max_model_len = int(max_model_len or longest or 4096)
        self._batch = Batch(self._slots, tokenizer, end_ids(model, tokenizer), max_batch)
        self._seeds = np.random.default_rng(seed)
        self._version = version
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._idle = threading.Event()
        self._pauses = 0
        self._closed = False
        self._thread: threading.Thread | None = None

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

        request = _Request(self._rows(prompt_ids, sampling, streamed=False), deliver)
        with self._asked(request):
            await future
        answers = [self._answer(request.answers[choice], sampling.stop) for choice in range(sampling.n)]
        return Completion(list(prompt_ids), answers, request.version or self._version)

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> AsyncIterator[Delta]:
        """The same, token by token as they are sampled; closing the iterator takes the answers out of the batch.

        Raises:
            EngineError: as `generate`.
        """
        sampling = sampling or Sampling()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        request = _Request(self._rows(prompt_ids, sampling, streamed=True), queue.put_nowait)
        left = sampling.n
        given = [0] * sampling.n
        with self._asked(request):
            while left:
                event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                choice, version = event.row.choice, request.version or self._version
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
    def _asked(self, request: _Request) -> Any:
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed")
            self._start()
            self._waiting.append(request)
            self._wake.notify()
        expiry = request.loop.call_later(self.queue_timeout, self._expire, request)
        try:
            yield
        finally:
            expiry.cancel()
            request.cancel()

    def _expire(self, request: _Request) -> None:
        if request.version is None:
            request.cancel()
            what = "is paused for an update" if self._pauses else f"has {self._batch.size} of {self.max_batch} answers in work"
            request.deliver(EngineError(f"a request waited {self.queue_timeout:g} s and could not start: the engine {what}"))

    def _answer(self, done: Finished, stops: Sequence[str]) -> Answer:
        ids = done.token_ids
        shown = ids[:-1] if ids and self.ends(ids[-1]) else ids
        return Answer(ids, done.logprobs, decode(self.tokenizer, shown, stops), done.reason, done.row.top)

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
        return self._version

    @version.setter
    def version(self, value: str) -> None:
        self._version = value

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
                self.model.load_state_dict(dict(weights), strict=False)
            self.version = version

    # --- life ---------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agl-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops the worker; requests in work fail."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- worker -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            while not self._closed:
                try:
                    self._turn()
                except Exception as error:
                    failure = EngineError(f"sampling failed: {type(error).__name__}: {error}")
                    failure.__cause__ = error
                    self._fail({row.request for row in self._batch.rows}, failure)
                    self._batch.clear()
        with self._wake:
            left = {row.request for row in self._batch.rows} | set(self._waiting)
        self._fail(left, EngineError("the engine was closed"))
        self._idle.set()

    def _turn(self) -> None:
        """Lets requests join, samples one token for each row, hands out what is done."""
        self._batch.drop_cancelled()
        requests = self._take()
        events: list[Finished | Sampled] = []
        if requests:
            rows = [row for request in requests for row in request.rows]
            try:
                events += self._batch.admit(rows)
            except Exception:
                self._batch.rows.extend(row for row in rows if row not in self._batch.rows)
                raise
        if self._batch.size:
            events += self._batch.step()
        self._hand_out(events)

    def _take(self) -> list[_Request]:
        """The requests that join now; waits when there is nothing to do."""
        with self._wake:
            if not self._batch.size:
                waited = False
                while not self._closed and (self._pauses or not self._waiting):
                    if self._pauses:
                        self._idle.set()
                    waited = True
                    self._wake.wait()
                if waited and self._waiting and self.max_wait:
                    self._gather()
            taken: list[_Request] = []
            free = self.max_batch - self._batch.size
            while not self._pauses and self._waiting and len(self._waiting[0].rows) <= free:
                request = self._waiting.popleft()
                if not request.cancelled:
                    request.version = self._version
                    free -= len(request.rows)
                    taken.append(request)
            return taken

    def _gather(self) -> None:
        """Waits a little for more requests: an agent's siblings start together, and one prefill is cheaper than many."""
        deadline = time.monotonic() + self.max_wait
        while (left := deadline - time.monotonic()) > 0 and len(self._waiting) < self.max_batch and not self._closed:
            self._wake.wait(left)

    def _hand_out(self, events: Iterable[Finished | Sampled]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Request, Any]]] = {}
        for event in events:
            request: _Request = event.row.request
            if isinstance(event, Finished):
                request.answers[event.row.choice] = event
            by_loop.setdefault(request.loop, []).append((request, event))
        for loop, items in by_loop.items():
            _call(loop, items)

    def _fail(self, requests: Iterable[_Request], error: EngineError) -> None:
        for request in requests:
            _call(request.loop, [(request, error)])


class Pause:
    """See `Engine.paused`."""

    def __init__(self, engine: Engine, timeout: float) -> None:
        self.engine, self.timeout = engine, timeout

    def __enter__(self) -> Engine:
        engine = self.engine
        with engine._wake:
            engine._start()
            engine._pauses += 1
            engine._idle.clear()
            engine._wake.notify()
        if engine._idle.wait(self.timeout):
            return engine
        self.__exit__(None, None, None)
        raise EngineError(f"{engine._batch.size} answers did not end within {self.timeout:g} s; shorten `max_tokens` or wait longer")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        engine = self.engine
        with engine._wake:
            engine._pauses -= 1
            # What is remembered of prompts was computed with the old weights.
            engine._slots.prefixes.clear()
            engine._wake.notify()

    async def __aenter__(self) -> Engine:
        entering = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            entering.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self.__exit__(None, None, None))
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.__exit__(kind, error, trace)


def _call(loop: asyncio.AbstractEventLoop, items: list[tuple[_Request, Any]]) -> None:
    def deliver() -> None:
        for request, event in items:
            request.deliver(event)

    # A closed loop has nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deliver)


def end_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the tokenizer, the generation config and the model's config."""
    named: list[Any] = [tokenizer.eos_token_id]
    named += [getattr(getattr(model, part, None), "eos_token_id", None) for part in ("generation_config", "config")]
    flat = [item for value in named for item in (value if isinstance(value, list | tuple) else [value])]
    return sorted({int(item) for item in flat if item is not None})
