"""Records what a framework sends to the model, from the framework itself against a scripted endpoint, into `shapes/FRAMEWORK.json`.

    python examples/math_agent/record_shapes.py langgraph

The embedded model is made from these shapes, so it has seen the prompts of all four.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import agl
from agl.testing import Reply, ScriptedServer
from frameworks import FRAMEWORKS

SHAPES = Path(__file__).parent / "shapes"
QUESTION, EXPRESSION = "{question}", "{expression}"
_ARGUMENTS = {"expression": EXPRESSION}
MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "argument": ("calculator", {"formula": EXPRESSION}),
    "no_arguments": ("calculator", {}),
    "tool": ("calc", _ARGUMENTS),
}
"""Calls with a mistake, by what is wrong with them."""
_LAST = Reply("The answer is 1")


def main() -> None:
    """Record one framework."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    framework = parser.parse_args().framework
    SHAPES.mkdir(exist_ok=True)
    (SHAPES / f"{framework}.json").write_text(json.dumps(record(FRAMEWORKS[framework]()), indent=1) + "\n")


def record(agent: agl.AgentSpec) -> dict[str, Any]:
    """What an agent sends.

    Returns:
        `tools` and `messages` of the first call, the latter with `{question}` where the question stands; `replies`: for each of
        `MISTAKES` the framework's answer to the model, None where it ends the run.
    """
    (first,) = _requests(agent, [_LAST])
    return {
        "tools": first["tools"],
        "messages": [{"role": message["role"], "content": message["content"]} for message in first["messages"]],
        "replies": {name: _reply(agent, call) for name, call in MISTAKES.items()},
    }


def _reply(agent: agl.AgentSpec, call: tuple[str, dict[str, Any]]) -> str | None:
    requests = _requests(agent, [Reply(tool_calls=[call]), _LAST])
    return str(requests[1]["messages"][-1]["content"]) if len(requests) == 2 else None


def _requests(agent: agl.AgentSpec, script: list[Reply]) -> list[dict[str, Any]]:
    with ScriptedServer(script) as server, tempfile.TemporaryDirectory() as folder:
        trainer = agl.Trainer(initial_resources={"main_llm": server.llm()}, store=Path(folder) / "store.sqlite", quiet=True)
        trainer.dev(agent, [{"question": QUESTION, "answer": 1}])
        return [request.body for request in server.requests]


if __name__ == "__main__":
    main()
