"""The clients of `benchmarks/gateway.py`, in a process of their own: jobs as lines of JSON in, what was measured as lines of JSON out.

HTTP is written and read by hand, with nothing parsed but where an answer ends: a client library would need more processor time
than the gateway, on the same cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from gateway_upstream import FIRST

_ID, _ID_END = b'"id":"chatcmpl-', 12
WORDS = "You are a helpful agent that answers questions about a table of orders with one query. "


class Connection(asyncio.Protocol):
    """One connection, with one request at a time on it."""

    def __init__(self, mark: bytes = b"") -> None:
        self._mark = mark
        self._done: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        """As asyncio calls it."""
        self.transport = transport

    async def ask(self, request: bytes) -> bytes:
        """The whole answer, head and body; `first` is then the time at which the mark came."""
        self._data, self._end, self.first = bytearray(), 0, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._data += data
        if not self.first and self._mark and self._mark in self._data:
            self.first = time.perf_counter()
        if not self._end:
            self._end = end_of(self._data)
        if (self._end > 0 and len(self._data) >= self._end) or (self._end < 0 and self._data.endswith(b"\r\n0\r\n\r\n")):
            assert self._done is not None
            self._done.set_result(bytes(self._data))

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio calls it."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"closed within an answer: {error}"))


def end_of(data: bytes | bytearray) -> int:
    """Where an answer ends: its length, -1 when it comes in chunks, 0 while its head is not whole."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return 0
    names = bytes(data[:head]).lower()
    length = names.find(b"content-length:")
    return -1 if length < 0 else head + 4 + int(names[length + 15 :].split(b"\r\n", 1)[0])


async def connect(url: str, mark: bytes = b"") -> Connection:
    """A new connection to where a URL points."""
    at = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(mark), at.hostname, at.port)
    return connection


def request_bytes(url: str, key: str, *, stream: bool = False) -> bytes:
    """A request for a chat completion with a prompt of about 512 tokens."""
    at = urlsplit(url)
    messages = [{"role": "system", "content": WORDS * 24}, {"role": "user", "content": "How many orders came after 2020? " * 8}]
    body = json.dumps({"model": "policy", "messages": messages, "max_tokens": 128, **({"stream": True} if stream else {})}).encode()
    head = f"POST {at.path}/chat/completions HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def number_of(answer: bytes) -> int:
    """The number in an answer's id.

    Raises:
        RuntimeError: the answer is a refusal.
    """
    at = answer.replace(b'"id": "', b'"id":"', 1).find(_ID) if answer.startswith(b"HTTP/1.1 200") else -1
    if at < 0:
        raise RuntimeError(f"no answer: {answer[:600]!r}")
    start = at + len(_ID)
    return int(answer.replace(b'"id": "', b'"id":"', 1)[start : start + _ID_END])


async def throughput(urls: list[list[str]], seconds: float) -> dict[str, Any]:
    """As many calls as go through, one after the other on each of the URLs.

    Returns:
        Seconds until the last was answered, the numbers of the answers, and each call's milliseconds.
    """
    connections = [await connect(url) for url, _ in urls]
    numbers: list[int] = []
    times: list[float] = []
    begin = time.perf_counter()

    async def one(connection: Connection, request: bytes) -> None:
        now = time.perf_counter()
        while now < begin + seconds:
            numbers.append(number_of(await connection.ask(request)))
            before, now = now, time.perf_counter()
            times.append((now - before) * 1000)

    await asyncio.gather(*(one(connection, request_bytes(*at)) for connection, at in zip(connections, urls, strict=True)))
    took = time.perf_counter() - begin
    for connection in connections:
        connection.transport.close()
    return {"seconds": took, "numbers": numbers, "ms": times}


async def latency(systems: dict[str, list[str]], blocks: int, calls: int, stream: bool) -> dict[str, Any]:
    """One call at a time, some to each system in turn, again and again.

    Returns:
        By system, each call's milliseconds (until the first token's text, where it is a stream) and the numbers of the answers.
    """
    mark = FIRST.encode() if stream else b""
    connections = {name: await connect(url, mark) for name, (url, _) in systems.items()}
    requests = {name: request_bytes(url, key, stream=stream) for name, (url, key) in systems.items()}
    found: dict[str, Any] = {name: {"ms": [], "numbers": []} for name in systems}
    for _ in range(blocks):
        for name, connection in connections.items():
            for _ in range(calls):
                begin = time.perf_counter()
                answer = await connection.ask(requests[name])
                found[name]["ms"].append(((connection.first if stream else time.perf_counter()) - begin) * 1000)
                found[name]["numbers"].append(number_of(answer))
    for connection in connections.values():
        connection.transport.close()
    return found


async def main() -> None:
    """Do the jobs of the standard input."""
    jobs = {"throughput": throughput, "latency": latency}
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        try:
            done = await jobs[job.pop("job")](**job)
        except (OSError, RuntimeError) as error:
            done = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
