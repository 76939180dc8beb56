"""The attempt that the current code runs in: context variables, so that concurrent attempts never mix.

Plugins and user code read it through `agl.current()`. Outside an attempt everything here is empty and inert.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from agl.deadline import Deadline
from agl.errors import ConfigError, RewardError
from agl.resources import LLM, PromptTemplate, Resources
from agl.rewards import FINAL, Reward, make_reward
from agl.roles import Roles
from agl.rollouts import Rollout
from agl.spans import Span, SpanKind, SpanStatus, new_span_id, new_trace_id

log = logging.getLogger("agl")

REFUSED = (
    'this run takes no rewards from the agent\'s side (`agent_rewards="refuse"`); its rewards come from `reward=`, from judges (`rewards=[…]`) '
    "or from what a function agent returns"
)


class ActiveAttempt:
    """What code inside an attempt can reach: its rollout, its resources, and where spans and rewards go.

    Thread-safe: frameworks run nodes and tools in threads of their own.
    """

    def __init__(
        self,
        rollout: Rollout,
        resources: Resources,
        roles: Roles | None = None,
        *,
        directory: Path | None = None,
        takes_rewards: bool = True,
    ) -> None:
        assert rollout.attempt is not None
        self.rollout = rollout
        self.attempt_id = rollout.attempt.attempt_id
        self.directory = directory
        """Where `folder` is; None outside a run."""
        self.resources = resources
        self.roles = roles or Roles()
        self.trace_id = new_trace_id()
        self.root_id = new_span_id()
        self.last_call: str | None = None
        """Span id of the LLM call that ended last, in any of the agent's parallel branches."""
        self.call_spans: dict[str, str] = {}
        """Span id of the last try by the call id that a client keeps over its retries."""
        self.infrastructure_error: str | None = None
        """What went wrong at the endpoint, while no later call has succeeded."""
        self.claimed_prompts: set[str] = set()
        """Names of prompt templates that a framework plugin puts in itself; the core leaves them alone."""
        self.used_prompts: set[str] = set()
        """Names of prompt templates that were put into the agent, by a plugin or by the core."""
        self.takes_rewards = takes_rewards
        """Whether rewards from the agent's side count, emitted or posted; those of judges and reward functions always do."""
        self.sends_otlp = False
        """Whether spans of the agent's own tracing come by OTLP, in a trace with an id of its own."""
        self.is_secret: Callable[[str], bool] = lambda text: False
        """Whether a text holds a key that the gateway keeps to itself."""
        self.deadline = Deadline(rollout.timeout)
        """What the agent's time is measured by; the gateway stops it while it holds calls up."""
        self.closed = False
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._ended: dict[str, str | None] = {}
        self._rewards: list[Reward] = []

    @property
    def llm(self) -> LLM | None:
        """The first language model of the resources, as this attempt may use it."""
        return next(iter(self.resources.llms().values()), None)

    def llm_for(self, role: str | None) -> LLM | None:
        """The language model that a role's calls go to; None where they are left alone, or where there is none."""
        if self.roles.is_original(role):
            return None
        return self.resources.llms().get(self.roles.llm_of(role) or "", self.llm)

    def folder(self) -> Path:
        """Folder for files of this attempt alone, within that of its run."""
        assert self.directory is not None, "an attempt outside a run has no files"
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory

    def claim_prompt(self, name: str) -> PromptTemplate | None:
        """A prompt template that a framework plugin puts into the agent itself; None when there is none of this name.

        From then on the core does not put it into requests: a plugin may fill in its placeholders.

        Args:
            name: as `agl.prompts` lists it, such as `writer.instructions`.
        """
        template = self.resources.prompts().get(name)
        if template is not None:
            self.claimed_prompts.add(name)
            self.used_prompts.add(name)
        return template

    def knows_trace(self, trace_id: str) -> bool:
        """Whether the spans of a trace are, or will be, among those of this attempt."""
        return trace_id == self.trace_id or (self.sends_otlp and bool(trace_id.strip("0")))

    def make_span(self, **values: Any) -> Span:
        """A span of this attempt that ends now, unless `ended_at` is given.

        Args:
            values: what the attempt does not know: `span_id`, `name`, `kind`, `started_at`, and any other field of `Span`.
        """
        values.setdefault("ended_at", time.time())
        return Span(trace_id=self.trace_id, rollout_id=self.rollout.rollout_id, attempt_id=self.attempt_id, **values)

    def add_span(self, span: Span) -> None:
        """Keep a span; one that comes after the end is dropped, and said at debug level."""
        with self._lock:
            if self.closed:
                log.debug("span `%s` came after the end of attempt %s", span.name, self.attempt_id)
                return
            self._ended[span.span_id] = span.parent_id
            self._spans.append(span)

    def add_reward(self, reward: Reward) -> None:
        """Keep a reward; one that comes after the end is dropped, and said at debug level."""
        with self._lock:
            if self.closed:
                log.debug("reward `%s` came after the end of attempt %s", reward.name, self.attempt_id)
                return
            self._rewards.append(reward)

    def is_open(self, span_id: str | None) -> bool:
        """Whether a span has not ended; the attempt itself (None) has not."""
        return span_id not in self._ended

    def innermost_open(self, span_id: str | None) -> str:
        """The span, or the nearest one around it that has not ended."""
        while span_id in self._ended:
            span_id = self._ended[span_id]
        return span_id or self.root_id

    def rewards(self) -> list[Reward]:
        """Rewards so far."""
        with self._lock:
            return list(self._rewards)

    def close(self) -> tuple[list[Span], list[Reward]]:
        """End of the attempt: everything recorded; nothing is taken after it."""
        with self._lock:
            self.closed = True
            return list(self._spans), list(self._rewards)


class _Role(NamedTuple):
    """Who calls, as long as the span is open that it was set for: a framework may end a span in another context."""

    name: str | None
    span_id: str | None
    outer: _Role | None


_ATTEMPT: contextvars.ContextVar[ActiveAttempt | None] = contextvars.ContextVar("agl_attempt", default=None)
_ROLE: contextvars.ContextVar[_Role | None] = contextvars.ContextVar("agl_role", default=None)
_SPAN: contextvars.ContextVar[str | None] = contextvars.ContextVar("agl_span", default=None)
_CALL: contextvars.ContextVar[str | None] = contextvars.ContextVar("agl_call", default=None)


def current() -> ActiveAttempt | None:
    """The attempt that this code runs in, or None."""
    return _ATTEMPT.get()


def current_role() -> str | None:
    """Path of agent or node names that the next LLM call belongs to."""
    held = _held_role()
    return held.name if held else None


def _held_role() -> _Role | None:
    held, attempt = _ROLE.get(), _ATTEMPT.get()
    while held is not None and attempt is not None and not attempt.is_open(held.span_id):
        held = held.outer
    return held


def current_span() -> str | None:
    """Span id under which new spans hang; the attempt's root span when nothing else is open."""
    attempt = _ATTEMPT.get()
    return attempt.innermost_open(_SPAN.get()) if attempt else _SPAN.get()


def set_role(role: str | None) -> contextvars.Token[Any]:
    """Name who calls next in this context (framework plugins do)."""
    return _ROLE.set(_Role(role, _SPAN.get(), _held_role()))


def set_span(span_id: str | None) -> contextvars.Token[str | None]:
    """Hang what follows in this context under a span (framework plugins do)."""
    return _SPAN.set(span_id)


def set_call(call_id: str | None) -> contextvars.Token[str | None]:
    """Name the LLM call made last in this context (client plugins do): rewards emitted in this branch are its own.

    A framework plugin does it where the framework makes its calls in a context of their own: before a tool runs, after a run
    has ended.

    Args:
        call_id: of a call, or of a span around it.
    """
    return _CALL.set(call_id)


@contextlib.contextmanager
def entered(attempt: ActiveAttempt) -> Generator[ActiveAttempt]:
    """Run code inside an attempt. Role, span and call start empty: an event loop may reuse a context with old values."""
    token = _ATTEMPT.set(attempt)
    role_, span, call = _ROLE.set(None), _SPAN.set(None), _CALL.set(None)
    try:
        yield attempt
    finally:
        _ATTEMPT.reset(token)
        _ROLE.reset(role_)
        _SPAN.reset(span)
        _CALL.reset(call)


@contextlib.contextmanager
def role(name: str) -> Generator[None]:
    """Mark the LLM calls inside as made by `name`, below the role around it."""
    outer = current_role()
    token = _ROLE.set(_Role(f"{outer}/{name}" if outer else name, None, None))
    try:
        yield
    finally:
        _ROLE.reset(token)


def operation(name: str, kind: SpanKind = SpanKind.OPERATION, /, **attributes: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """A span around a block of the user's code; yields its attributes, to add to.

    Without a running attempt nothing is recorded.

    Raises:
        ConfigError: the name is no text, as where it is used as a decorator.
    """
    if not isinstance(cast(object, name), str):
        raise ConfigError(f'`operation` goes around a block and has a name: `with agl.operation("search"):`, given was {name!r}')
    return _operation(name, kind, **attributes)


@contextlib.contextmanager
def _operation(name: str, kind: SpanKind, /, **attributes: Any) -> Generator[dict[str, Any]]:
    attempt = _ATTEMPT.get()
    if attempt is None:
        _say_outside()
        yield attributes
        return
    span_id, parent, started, error = new_span_id(), current_span(), time.time(), None
    token = _SPAN.set(span_id)
    try:
        yield attributes
    except BaseException as raised:
        error = "".join(traceback.format_exception_only(raised)).strip()
        raise
    finally:
        _SPAN.reset(token)
        attempt.add_span(
            attempt.make_span(
                span_id=span_id,
                name=name,
                kind=kind,
                started_at=started,
                parent_id=parent,
                role=current_role(),
                status=SpanStatus.ERROR if error else SpanStatus.OK,
                error=error,
                attributes=attributes,
            )
        )


def emit_reward(value: Any, name: str = FINAL) -> None:
    """Give a reward from inside the agent.

    Under the name `reward` it judges the whole rollout; under any other name it belongs to the LLM call made last in this
    branch of the agent (to the rollout when there was none yet). Without a running attempt the value is checked and
    nothing else happens.

    Raises:
        RewardError: not one finite number, or this run takes no rewards from the agent's side.
    """
    attempt = _ATTEMPT.get()
    reward = make_reward(value, name=name, source="agent", span_id=_last_call(attempt) if attempt and name != FINAL else None)
    if attempt is None:
        _say_outside()
        return
    if not attempt.takes_rewards:
        raise RewardError(REFUSED)
    attempt.add_reward(reward)


@functools.cache
def _say_outside() -> None:
    log.debug("rewards, messages, objects and operations outside an attempt are recorded nowhere (said once)")


def _last_call(attempt: ActiveAttempt) -> str | None:
    call_id = _CALL.get()
    return attempt.last_call if call_id is None else attempt.call_spans.get(call_id, call_id)


def emit_message(body: str, **attributes: Any) -> None:
    """Record a text on the attempt."""
    with operation("message", SpanKind.MESSAGE, body=body, **attributes):
        pass


def emit_object(value: Any, name: str = "object") -> None:
    """Record a JSON value on the attempt."""
    with operation(name, SpanKind.OBJECT, value=value):
        pass


# asyncio makes a new TimeoutError, without the traceback, of one that comes out of a thread; it leaves subclasses alone.
_TimeoutError = type("TimeoutError", (TimeoutError,), {"__module__": "builtins"})


def _carried(error: BaseException) -> BaseException:
    """What a future can carry from a thread to who awaits it."""
    if isinstance(error, (StopIteration, GeneratorExit)):  # who waits would wait for ever, or end as if closed
        return RuntimeError(f"{type(error).__name__} was raised").with_traceback(error.__traceback__)
    if type(error) is TimeoutError:
        kept = _TimeoutError(*error.args).with_traceback(error.__traceback__)
        kept.__cause__, kept.__context__ = error.__cause__, error.__context__
        return kept
    return error


class ContextExecutor(ThreadPoolExecutor):
    """Threads whose work sees the caller's context variables (asyncio's own default pool drops them).

    As many as are needed, reused when idle. They are daemons: an agent that hangs in one is abandoned, and neither keeps
    others waiting nor the process from ending.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="agl-agent")
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._over = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `ThreadPoolExecutor.submit`, in a copy of the caller's context."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(context.run(fn, *args, **kwargs))
            except BaseException as error:
                future.set_exception(_carried(error))

        self._work.put(work)
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, name="agl-agent", daemon=True).start()
        return future

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # an idle thread holds on to nothing
            if self._over:
                return
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let threads end when they are idle; there is nothing to wait for."""
        self._over = True
        while self._idle.acquire(blocking=False):
            self._work.put(None)
