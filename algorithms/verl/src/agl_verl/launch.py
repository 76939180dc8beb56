"""Launch: VERL's own start (`main_ppo.run_ppo`) in a thread of AGL's process, with the way to talk to its trainer."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray

from agl.errors import EngineError
from agl_verl.mailbox import Mailbox
from agl_verl.messages import STOP, Failed, Message

STOP_SECONDS = 60.0
"""For VERL to end by itself, when it was told to."""


class Launched:
    """VERL, running.

    Args:
        config: VERL's whole configuration (an OmegaConf node).
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._mailbox: Any = None
        self._runner: Any = None
        self._own_ray = False
        self._running: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start Ray where none is reached yet, and VERL in it.

        Raises:
            EngineError: Ray did not start, or the cluster refused.
        """
        self._own_ray = not ray.is_initialized()
        up = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        start = _Start(lambda mailbox, runner: loop.call_soon_threadsafe(_resolve, up, (mailbox, runner)))
        self._running = loop.run_in_executor(None, _run, self.config, start)
        await asyncio.wait({up, self._running}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            self._raise()
        self._mailbox, self._runner = up.result()

    async def take(self) -> tuple[int, Message]:
        """VERL's next message, with the number to answer it by.

        Raises:
            EngineError: VERL ended, with the last line of its error.
        """
        assert self._running is not None
        message = asyncio.ensure_future(self._mailbox.take.remote())
        await asyncio.wait({message, self._running}, return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            message.cancel()
            self._raise()
        number, found = message.result()
        if isinstance(found, Failed):
            raise EngineError(f"VERL ended: {found.error.strip().splitlines()[-1]}\n{found.error}")
        return number, found

    async def answer(self, number: int, value: Any = None) -> None:
        """Answer the message of that number."""
        await self._mailbox.answer.remote(number, value)

    async def say(self, word: str) -> None:
        """Let VERL go on where it waits for that word."""
        await self._mailbox.say.remote(word)

    async def stop(self, *, finished: bool) -> None:
        """End VERL, and the Ray that was started for it.

        Args:
            finished: VERL waits for this at its end, and goes by its own way out; else it is ended at once.
        """
        if self._running is None:
            return
        try:
            if finished and not self._running.done():
                await self.say(STOP)
                await asyncio.wait({self._running}, timeout=STOP_SECONDS)
        finally:
            await asyncio.shield(asyncio.to_thread(self._down))
            await asyncio.gather(self._running, return_exceptions=True)

    def _down(self) -> None:
        if self._runner is not None and ray.is_initialized():
            ray.kill(self._runner)
            ray.kill(self._mailbox)
        if self._own_ray and ray.is_initialized():
            ray.shutdown()

    def _raise(self) -> None:
        assert self._running is not None
        error = self._running.exception()
        told = str(getattr(error, "cause", None) or error or "it gave no reason").strip().splitlines()
        raise EngineError(f"VERL ended: {told[-1] if told else error!r}; the lines above are its own") from error


class _Start:
    """What `run_ppo` takes for a class of task runners: makes the actors when Ray is up."""

    def __init__(self, told: Any) -> None:
        self._told, self._options = told, {}

    def options(self, **options: Any) -> _Start:
        self._options = options
        return self

    def remote(self) -> Any:
        mailbox = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=64).remote()
        runner = ray.remote(TaskRunner).options(num_cpus=1, **self._options).remote(mailbox)
        self._told(mailbox, runner)
        return runner


class TaskRunner:
    """VERL's task runner, with AGL's trainers registered and AGL's manager told where to ask; an actor on any node."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def run(self, config: Any) -> None:
        """VERL's `TaskRunnerV1.run`."""
        from verl.trainer.main_ppo import TaskRunnerV1

        import agl_verl.trainers  # noqa: F401  # registers
        from agl_verl.manager import AglManager

        AglManager.mailbox = self._mailbox
        TaskRunnerV1.__ray_actor_class__().run(config)


def _run(config: Any, start: _Start) -> None:
    from verl.trainer.main_ppo import run_ppo

    # VERL's progress bars and its workers' lines go to the terminal as Ray forwards them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    run_ppo(config, task_runner_class=start)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
