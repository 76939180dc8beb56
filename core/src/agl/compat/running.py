"""LitAgentRunner and InMemoryLightningStore: a task run by hand, as Agent Lightning's debugging scripts do it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Generator, Mapping
from typing import Any, Generic, NoReturn, Self, TypeVar

from agl.compat.old import warn_old
from agl.compat.rewards import with_rewards
from agl.errors import ConfigError
from agl.resources import Resource
from agl.rollouts import Rollout
from agl.spans import Span
from agl.store.base import Store
from agl.testing.memory import MemoryStore

T = TypeVar("T")


class InMemoryLightningStore(MemoryStore):
    """A store that is gone with the process: `Trainer(store=…)`, `LitAgentRunner.run_context(store=…)`.

    Raises:
        ConfigError: an option; it is thread-safe, and nothing is evicted.
    """

    def __init__(self, **options: Any) -> None:
        if options:
            raise ConfigError(
                f"`InMemoryLightningStore` takes no options, given was {sorted(options)}: it is thread-safe and evicts nothing"
            )
        folder = tempfile.mkdtemp(prefix="agl-memory-")
        super().__init__(folder)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    async def query_spans(self, rollout_id: str) -> list[Span]:
        """Spans of a rollout's latest attempt, in order of their start, and after them its rewards as spans.

        Raises:
            NotFoundError: there is no such rollout.
        """
        (result,) = await self.results([rollout_id])
        return with_rewards(result)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"`InMemoryLightningStore` has no `{name}`: it has `query_spans(rollout_id)` and the methods of `agl.store.base.Store`. "
            "An algorithm asks its `Run` for rollouts and publishes resources by it (`agl.Algorithm.fit(run)`)"
        )


class LitAgentRunner(Generic[T]):
    """Runs one task at a time by hand. `Trainer.dev(agent, tasks)` does it without a store and prints the spans.

    Args:
        tracer: has no effect; every attempt is traced.
        options: others that Agent Lightning's class has.

    Raises:
        ConfigError: one of those.
    """

    def __init__(self, tracer: Any = None, **options: Any) -> None:
        if options:
            raise ConfigError(f"`LitAgentRunner` takes a tracer only, given was {sorted(options)}: nothing is polled here")
        if tracer is not None:
            warn_old("the tracer of `LitAgentRunner` has no effect: AGL traces every attempt by itself; `Trainer.dev` runs tasks, too")
        self._context: tuple[Any, Store, Any] | None = None

    @contextlib.contextmanager
    def run_context(self, *, agent: Any, store: Store, hooks: Any = None) -> Generator[Self]:
        """Say what runs, and where it is kept.

        Args:
            agent: what a Trainer takes.
            store: any store of AGL, such as `agl.InMemoryLightningStore()`.
            hooks: objects derived from `agl.Hook`.
        """
        self._context = agent, store, hooks
        try:
            yield self
        finally:
            self._context = None

    async def step(self, input: T, *, resources: Mapping[str, Resource] | None = None, mode: str | None = None) -> Rollout:
        """Run the agent on one task, as in validation.

        Args:
            input: the task, a dict.
            resources: LLMs and prompt templates by name.
            mode: None, `val` or `test`; they are one here.

        Returns:
            The rollout, with its attempt; its spans are in the store.

        Raises:
            ConfigError: outside of `run_context`, in `train` mode, or what `Trainer.evaluate` refuses.
            AglError: the agent failed; with its traceback.
        """
        from agl.trainer import Trainer

        if self._context is None:
            raise ConfigError("`step` works inside `with runner.run_context(agent=…, store=…):`")
        if mode == "train":
            raise ConfigError("`step` runs an agent as in validation; `mode='train'` needs an algorithm: `Trainer(algorithm=…).fit(…)`")
        agent, store, hooks = self._context
        trainer = Trainer(initial_resources=resources, store=store, max_attempts=1, quiet=True, hooks=hooks)
        return (await asyncio.to_thread(trainer.evaluate, agent, [input])).results[0].rollout

    async def iter(self, **_: Any) -> NoReturn:
        """Always refused.

        Raises:
            ConfigError: AGL's runners belong to a Trainer.
        """
        raise ConfigError("AGL has no runners apart from a Trainer: `Trainer(n_runners=…).fit(…)` runs what its algorithm asks for")
