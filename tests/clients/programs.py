"""Clients as they are, each a program that AGL runs: how it is started, how many calls it makes, and whether it got what was recorded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PACKAGES = FOLDER.parents[1] / "examples" / "node_agent" / "node_modules"
"""Of npm."""
PYTHON = {
    "openai-2": "openai_client.py",
    "openai-3": "openai_client.py",
    "anthropic": "anthropic_client.py",
    "langchain": "langchain_client.py",
}
COMMANDS = {name: [sys.executable, str(FOLDER / file)] for name, file in PYTHON.items()} | {
    "node-openai": ["node", str(FOLDER / "openai_client.mjs")],
    "node-anthropic": ["node", str(FOLDER / "anthropic_client.mjs")],
    "curl": ["bash", str(FOLDER / "curl_client.sh")],
}
CALLS = {"openai-2": 12, "openai-3": 12, "anthropic": 6, "langchain": 4, "node-openai": 6, "node-anthropic": 4, "curl": 8}


def missing(client):
    """What the client needs and is not here; None where it has all."""
    program = COMMANDS[client][0]
    if shutil.which(program) is None:
        return f"there is no {program}"
    if client.startswith("node") and not PACKAGES.is_dir():
        return "its packages of npm are not installed; `make test-node` installs them"
    return None


def version_of(client, said):
    """The version of a client's package, as the client told it.

    Raises:
        AssertionError: it is not the one that was to be tried.
    """
    if client == "curl":
        return "itself"
    version = json.loads(said)["version"]
    wanted = client.partition("openai-")[2]
    assert not wanted.isdigit() or wanted == version.partition(".")[0], version
    return version


def misunderstood(client, said, calls):
    """Calls of which the client did not get what is recorded: (what it got, what is recorded).

    Args:
        said: what the client wrote down.
        calls: the records, in the order of the calls.
    """
    if client == "curl":  # which wrote down each answer as it came
        whole = [(line, call) for line, call in zip(said.split("\n"), calls, strict=False) if not call.streamed]
        return [(line, text) for line, call in whole for text in texts_of(call) if json.dumps(text, ensure_ascii=False)[1:-1] not in line]
    return [(seen, texts_of(call)) for seen, call in zip(json.loads(said)["said"], calls, strict=True) if not same(seen, call)]


def texts_of(call):
    """What a client sees of a recorded call: the text of each choice, or the arguments of its tools; of Messages each block."""
    parts = []
    for message in (choice["message"] for choice in call.response["choices"]):
        arguments = [one["function"]["arguments"] for one in message.get("tool_calls", [])]
        blocks = [text for text in (message["content"], *arguments) if text]
        parts += blocks if call.dialect == "messages" else [message["content"] or "".join(arguments)]
    return parts


def same(seen, call):
    """Whether a client saw what is recorded. Arguments of a tool are compared as objects; of those that were cut off, each SDK makes its own."""
    recorded = texts_of(call)
    if any("tool_calls" in choice["message"] for choice in call.response["choices"]):
        try:
            return list(map(as_json, seen)) == list(map(as_json, recorded))
        except ValueError:
            return call.choices[0].finish_reason == "length"
    return seen == recorded


def as_json(text):
    """An object or a list as one; other texts as they are.

    Raises:
        ValueError: one that was cut off.
    """
    return json.loads(text) if text.startswith(("{", "[")) else text
