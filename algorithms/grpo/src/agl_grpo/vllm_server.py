"""vLLM's server as a process of its own, started from any environment that has vLLM, and ended with this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from agl.errors import EngineError
from agl.guard import guarded

MODULE = "vllm.entrypoints.openai.api_server"
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
"""Routes that exchange weights and hold calls up, routes that load adapters, and no report to anybody."""
LAST_WORDS = 3_000
"""Characters of its log that an error shows."""
GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class VLLMServer:
    """One server.

    Args:
        python: interpreter of the environment that has vLLM.
        arguments: of the server, beside its address.
        log: file for what it prints.
        host: address to listen on.
        port: 0 for any free one.
        start_timeout: seconds until it must answer.
    """

    def __init__(
        self, python: str, arguments: Sequence[str], log: Path, *, host: str = "127.0.0.1", port: int = 0, start_timeout: float = 900.0
    ) -> None:
        self.host, self.port, self.log = host, port or _free_port(host), log
        self.command = [python, "-m", MODULE, "--host", host, "--port", str(self.port), *arguments]
        self.start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """Base URL, with its `/v1`."""
        return f"http://{self.host}:{self.port}/v1"

    async def start(self) -> str:
        """Start it; returns the base URL when it answers.

        Raises:
            EngineError: it cannot be started, ended, or did not answer in time; with the end of its log.
        """
        out = self._stack.enter_context(self.log.open("wb"))
        environment = {**os.environ, **ENVIRONMENT}
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )
        except OSError as error:
            raise EngineError(f"vLLM cannot be started: {error}; name the Python of an environment that has it") from error
        self._stack.enter_context(guarded(self._process.pid))
        try:
            await self._answering()
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def stop(self) -> None:
        """End it with all its processes."""
        process, self._process = self._process, None
        if process is not None:
            _signal(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, GRACE_SECONDS)
            _signal(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        self._stack.close()

    async def _answering(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    raise EngineError(self._said("ended before it answered"))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/models") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(_LOOK_SECONDS)
        raise EngineError(self._said(f"did not answer within {self.start_timeout:g} s"))

    def _said(self, what: str) -> str:
        words = self.log.read_text(errors="replace")
        last = words[-LAST_WORDS:].strip()
        missing = f"No module named '{MODULE.partition('.')[0]}'" in last
        remedy = f"`{self.command[0]}` has no vLLM: " if missing else ""
        return (
            f"{last}\n{remedy}vLLM {what}; it was started as `{' '.join(self.command)}`. "
            'Name the Python of an environment that has it, `engine="vllm=/path/to/python"`, or the URL of a server, `engine="vllm=http://…/v1"`'
        )


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(group, number)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])
