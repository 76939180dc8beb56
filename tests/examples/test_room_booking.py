"""The room booking example: on scripted models without a key, and says so; on hosted ones with a key."""

import os
import subprocess
import sys
from pathlib import Path

from agl.testing import ScriptedServer

SCRIPT = Path(__file__).parents[2] / "examples" / "apo_room_booking" / "book_rooms.py"


def run(folder, *options, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *options]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=150)


def test_without_a_key_it_is_scripted_and_finds_the_policy(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no OPENAI_API_KEY in the environment: agent, critic and editor are scripted")
    assert "better prompts for ['prompt_template']" in done.stdout
    assert "+Which room do you book? " in done.stdout


def test_with_a_key_it_asks_the_hosted_models(tmp_path):
    def hosted(body):
        return "Birch" if body["model"] == "a" else "no idea"

    with ScriptedServer(hosted) as server:
        done = run(tmp_path, "--rollouts", "20", "--agent-model", "a", OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=server.base_url())
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"hosted models at {server.base_url()}: agent a, critic gpt-5-mini, editor gpt-4.1-mini")
        assert {call.body["model"] for call in server.requests} >= {"a"}
        assert {call.headers["authorization"] for call in server.requests} == {"Bearer sk-test"}
    assert "the prompt is as it was" in done.stdout
