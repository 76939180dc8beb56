"""An agent of Agent Lightning 1.0, unchanged: a class with `run()` that reads its task from variables, in a process of its own.

    agent = agent_class("calc_agent.Agent", env_map={"QUESTION": "input.question", "RESULT": "input.result"})

`python -m agl.compat.agent_class CLASS NAME=SOURCE …` is what that process runs.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agl.agents import AgentSpec
from agl.environment import KEY_VARIABLE, OPENAI_URL_VARIABLE, REWARD_URL_VARIABLE
from agl.errors import ConfigError
from agl.programs import command

OLD_KEY_VARIABLE = "AGL_KEY"
"""Set for a class of Agent Lightning 1.0: key of its attempt."""
OLD_URL_VARIABLE = "AGL_OPENAI_BASE_URL"
"""Set for a class of Agent Lightning 1.0: its attempt's own endpoint."""
OLD_EVENT_VARIABLE = "AGL_EVENT_URL"
"""Set for a class of Agent Lightning 1.0: where it posts rewards, `{"event_type": "reward", "data": {"value": 1.0}}`."""


def agent_class(path: str, env_map: Mapping[str, str]) -> AgentSpec:
    """An agent that runs a class in a new process for each attempt, as 1.0's local controller does.

    Args:
        path: `package.module.Class` or `package.module:Class`, as a process in this folder can import it. Its `run`, sync or
            async, posts the reward to the URL in `AGL_EVENT_URL`.
        env_map: variables of the process: `input`, `input.field.0.name` for a part of the task (JSON where it is no text), or
            any other text as it is.

    Raises:
        ConfigError: `path` names no class in a module.
    """
    if not path.replace(":", ".").rpartition(".")[0]:
        raise ConfigError(f"`path` must be `package.module.Class`, given was {path!r}")
    given = [f"{name}={source}" for name, source in env_map.items()]
    return command([sys.executable, "-m", "agl.compat.agent_class", path, *given], name=path)


def variables(task: dict[str, Any], env_map: Mapping[str, str]) -> dict[str, str]:
    """The variables that a class finds for a task.

    Raises:
        ConfigError: the task has no such part.
    """
    return {name: _value(task, name, source) for name, source in env_map.items()}


def _value(task: dict[str, Any], name: str, source: str) -> str:
    first, *parts = source.split(".")
    if first != "input":
        return source
    value: Any = task
    for part in parts:
        try:
            value = cast("list[Any]", value)[int(part)] if isinstance(value, list) else cast("dict[str, Any]", value)[part]
        except (LookupError, TypeError, ValueError):
            message = f"`env_map[{name!r}]` is {source!r}, and the task has no `{part}` there; it has the fields {sorted(task)}"
            raise ConfigError(message) from None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main(arguments: Sequence[str]) -> None:
    """Run a class for the task on the standard input.

    Raises:
        ConfigError: the task lacks what `env_map` asks for.
    """
    path, *given = arguments
    os.environ |= {
        OLD_KEY_VARIABLE: os.environ[KEY_VARIABLE],
        OLD_URL_VARIABLE: os.environ[OPENAI_URL_VARIABLE],
        OLD_EVENT_VARIABLE: os.environ[REWARD_URL_VARIABLE],
        **variables(json.load(sys.stdin), dict(item.split("=", 1) for item in given)),
    }
    module, _, name = path.replace(":", ".").rpartition(".")
    ended = getattr(importlib.import_module(module), name)().run()
    if inspect.isawaitable(ended):
        asyncio.run(_awaited(ended))


async def _awaited(ended: Any) -> None:
    await ended


if __name__ == "__main__":
    main(sys.argv[1:])
