"""The guard ends the process groups that a process leaves behind when it dies, and those alone."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PARENT = """
    import os, subprocess, sys, time
    from agl.guard import guarded
    def sleeper():
        made = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
        print(made.pid, flush=True)
        return made
    ended, kept, free = sleeper(), sleeper(), sleeper()
    with guarded(ended.pid):
        pass
    with guarded(kept.pid):
        {child}
        print("ready", flush=True)
        time.sleep(60)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") if os.path.exists(f"/proc/{pid}/stat") else open(os.devnull) as file:
        return ") Z" not in file.read()


@pytest.mark.parametrize("child", ["", "child = os.fork() or time.sleep(60)"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_groups_that_are_guarded_die_with_their_parent(number, child):
    code = textwrap.dedent(PARENT).format(child=child)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0)
    assert parent.stdout is not None
    ended, kept, free = (int(parent.stdout.readline()) for _ in range(3))
    try:
        assert parent.stdout.readline() == "ready\n"
        assert all(map(alive, (ended, kept, free)))
        parent.send_signal(number)
        parent.wait(30)
        deadline = time.monotonic() + 20
        while alive(kept) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [alive(pid) for pid in (ended, kept, free)] == [True, False, True]
    finally:
        for group in (ended, free, parent.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        parent.stdout.close()
        parent.wait(30)
