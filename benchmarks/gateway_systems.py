"""The gateways that `benchmarks/gateway.py` measures, each as a process that is asked for URLs to call."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START_SECONDS = 180.0
"""Longest that a gateway takes to be there."""


class Talker:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next line it says.

        Raises:
            SystemExit: it has ended.
        """
        assert self.process.stdout is not None
        if not (said := self.process.stdout.readline()):
            raise SystemExit(f"{self.process.args} has ended: {self.process.wait()}")
        return said

    def ask(self, **job: Any) -> dict[str, Any]:
        """Say a line and wait for the answer.

        Raises:
            SystemExit: it failed.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.line())
        if "error" in answer:
            raise SystemExit(f"{self.process.args[1]}: {answer['error']}")
        return answer

    def stop(self) -> None:
        """End it in its own way: by the end of its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


class Direct:
    """No gateway: the fake engine itself."""

    streams = True
    process: subprocess.Popen[str] | None = None

    def __init__(self, upstream: str) -> None:
        self._url = upstream

    def open(self, number: int) -> list[list[str]]:
        """URLs and keys for so many clients."""
        return [[self._url, "none"]] * number

    def close(self) -> float:
        """End what was opened; the seconds until all of it was kept."""
        return 0.0

    def kept(self) -> int | None:
        """How many calls it has kept of those that were opened last; None when it keeps none."""
        return None

    def stop(self) -> None:
        """End its process."""


class Bare(Direct):
    """A proxy on the same HTTP library that passes bytes on, reads nothing and keeps nothing."""

    def __init__(self, upstream: str) -> None:
        self._talker = Talker("gateway_bare.py", upstream)
        self.process = self._talker.process
        super().__init__(self._talker.line().strip())

    def stop(self) -> None:
        """End its process."""
        self.process.kill()
        self.process.wait()


class AGL(Direct):
    """AGL's gateway with the SQLite store. Every call is looked at in the store at the end, so `kept` is not asked."""

    def __init__(self, upstream: str, folder: Path) -> None:
        self.store = folder / "store.sqlite"
        self._talker = Talker("gateway_agl.py", upstream, str(self.store))
        self._talker.line()
        self.process = self._talker.process

    def open(self, number: int) -> list[list[str]]:
        """New attempts."""
        return self._talker.ask(open=number)["urls"]

    def close(self) -> float:
        """The end of the attempts."""
        return self._talker.ask(close=True)["seconds"]

    def stop(self) -> None:
        """The end of the gateway and its store."""
        self._talker.stop()


class Served(Direct):
    """A gateway of another project, in an environment and a process of its own."""

    def __init__(self, folder: Path, command: list[str], **environment: str) -> None:
        self._log = folder / "log.txt"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def post(self, url: str, body: Any = None, *, method: str = "POST", key: str = "bench") -> Any:
        """Ask it something, again until it is up.

        Raises:
            SystemExit: it does not come up.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method=method), timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                raise SystemExit(f"{url} answered {error.code}: {error.read()[:500]!r}") from error
            except OSError as error:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise SystemExit(f"{self.process.args[:3]} does not come up: {error}\n{self._log.read_text()[-2000:]}") from error
                time.sleep(0.25)

    def stop(self) -> None:
        """End its process."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class AgentLightning(Served):
    """Agent Lightning 1.0.2's server, as its module starts it. It keeps events in memory and refuses streams."""

    streams = False

    def __init__(self, upstream: str, folder: Path, python: Path) -> None:
        port = free_port()
        self._url, self._rollouts = f"http://127.0.0.1:{port}", list[str]()
        options = ("host=127.0.0.1", f"port={port}", "key=bench", "default_proxy.model_name=policy")
        super().__init__(folder, [str(python), "-m", "agentlightning.server", *options])
        self.post(f"{self._url}/api/models", [{"model": "policy", "endpoint": upstream, "version": 1}])

    def open(self, number: int) -> list[list[str]]:
        """New rollouts."""
        made = self.post(f"{self._url}/api/rollouts", [{"input": {}} for _ in range(number)])
        self._rollouts = [rollout["rollout_id"] for rollout in made]
        return [[f"{self._url}/proxy/rollout/{rollout}/attempt/0/mode/train/openai/v1", "bench"] for rollout in self._rollouts]

    def kept(self) -> int:
        """Its events, which are then deleted: it keeps them in memory for ever, and would grow slower."""
        events = 0
        for rollout in self._rollouts:
            events += len(self.post(f"{self._url}/api/rollouts/{rollout}/events", method="GET"))
            self.post(f"{self._url}/api/rollouts/{rollout}", method="DELETE")
        self._rollouts = []
        return events


class LiteLLM(Served):
    """LiteLLM's proxy, which forwards and keeps nothing."""

    def __init__(self, upstream: str, folder: Path, python: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        served = {"model": "hosted_vllm/policy", "api_base": upstream, "api_key": "none"}
        config = folder / "config.yaml"  # JSON is YAML
        config.write_text(json.dumps({"model_list": [{"model_name": "policy", "litellm_params": served}]}))
        command = [str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        self._key = f"sk-{secrets.token_hex(16)}"  # it does not start without one that is hard to guess
        super().__init__(folder, command, LITELLM_MASTER_KEY=self._key, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION")
        self.post(f"{self._url}/health/liveliness", method="GET")

    def open(self, number: int) -> list[list[str]]:
        """Its one URL."""
        return [[f"{self._url}/v1", self._key]] * number


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processor_seconds(process: subprocess.Popen[Any] | None) -> float | None:
    """Processor time that a process has used, all threads; None where the system does not tell."""
    try:
        told = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split() if process else None
    except OSError:
        return None
    return None if told is None else (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
