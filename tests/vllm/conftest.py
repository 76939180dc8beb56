"""Servers of a real vLLM, one for all tests of a file: `make test-vllm`.

The CPU build is slow to start (a minute on a quiet machine), hence no server for each test.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from agl_grpo.vllm_server import VLLMServer

TESTS = Path(__file__).parents[1]
sys.path[:0] = [
    str(folder) for folder in (Path(__file__).parent, TESTS / "conformance" / "tiny", TESTS / "clients", TESTS.parent / "tools")
]
COMMON = ["--enforce-eager", "--generation-config=vllm", "--dtype=float32", "--max-num-seqs=16"]


@pytest.fixture(scope="session", autouse=True)
def _small():
    """As little memory for keys and values as vLLM takes: it would have half of the machine's."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def loop_of_servers():
    """An event loop in a thread, for servers that outlive a test's own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="session")
def smollm() -> Path:
    """Folder of SmolLM2-135M-Instruct, kept beside the environment."""
    from smollm2 import make_model

    return make_model(Path(sys.prefix) / "SmolLM2-135M-Instruct")


@pytest.fixture(scope="module")
def served(tmp_path_factory, loop_of_servers):
    """Starts servers that are stopped after the last test of the file."""
    running = []

    def serve(model: Path, *arguments: str) -> str:
        log = tmp_path_factory.mktemp("vllm") / "server.log"
        server = VLLMServer(sys.executable, [f"--model={model}", *COMMON, *arguments], log)
        url = loop_of_servers(server.start())
        running.append(server)
        return url

    yield serve
    for server in running:
        loop_of_servers(server.stop())
