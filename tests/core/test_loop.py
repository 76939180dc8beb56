"""The loop of runs: one for all that come after each other, another for one that comes meanwhile."""

import asyncio
import gc
import os
import sys
import threading
import weakref

import pytest

from agl.loop import run_in_loop


def run(main):
    return run_in_loop(main, say=print)


async def this_loop():
    return asyncio.get_running_loop()


def test_a_later_run_gets_the_same_loop_so_that_cached_clients_go_on_working():
    class Client:
        """Keeps a connection, as clients of HTTP do: asyncio's streams work on the loop of their connection only."""

        streams = None

        async def ask(self):
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            self.streams[1].write(b"hello\n")
            return await self.streams[0].readline()

        async def close(self):
            self.streams[1].close()
            await self.streams[1].wait_closed()

    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    served, over, client = threading.Event(), threading.Event(), Client()

    async def serve():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        client.port = server.sockets[0].getsockname()[1]
        served.set()
        await asyncio.to_thread(over.wait, 10)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert served.wait(10)
    assert [run(client.ask) for _ in range(3)] == [b"hello\n"] * 3
    run(client.close)
    over.set()
    thread.join(10)


def test_two_runs_at_a_time_have_a_loop_each():
    both = threading.Barrier(2, timeout=10)

    async def main():
        await asyncio.to_thread(both.wait)
        return asyncio.get_running_loop()

    loops = []
    threads = [threading.Thread(target=lambda: loops.append(run(main))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(loops)) == 2
    assert run(this_loop) in loops


def test_a_run_within_a_run_has_a_loop_of_its_own():
    async def outer():
        return asyncio.get_running_loop(), await asyncio.to_thread(run, this_loop)

    outside, inside = run(outer)
    assert outside is not inside


def test_tasks_that_a_run_leaves_behind_end_with_it():
    ended = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return weakref.ref(task)

    left = run(main)
    assert ended == [True]
    gc.collect()
    assert left() is None


def test_an_error_comes_out_as_it_is():
    async def main():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run(main)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_task_that_ends_the_program_ends_the_run_and_leaves_the_loop_usable(error):
    async def leave():
        raise error

    async def main():
        task = asyncio.create_task(leave())
        await asyncio.Event().wait()
        return task

    with pytest.raises(type(error)):
        run(main)
    assert run(this_loop).is_running()


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_a_loop_of_its_own():
    run(this_loop)
    child = os.fork()
    if not child:
        os._exit(0 if run(this_loop).is_running() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
