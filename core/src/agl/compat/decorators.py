"""Decorators of Agent Lightning: `@llm_rollout` and `@prompt_rollout`, which `@agl.rollout` replaces, and `@reward`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

from agl.agents import FunctionAgent, rollout
from agl.compat.old import warn_old
from agl.context import emit_reward
from agl.errors import ConfigError


@overload
def llm_rollout(function: Callable[..., Any], /) -> FunctionAgent: ...
@overload
def llm_rollout(*, strip_proxy: bool = True) -> Callable[[Callable[..., Any]], FunctionAgent]: ...
def llm_rollout(function: Callable[..., Any] | None = None, /, *, strip_proxy: bool = True) -> Any:
    """`@agl.rollout` for `(task, llm[, rollout])`.

    Raises:
        ConfigError: `strip_proxy=False`: an LLM always is the attempt's own.
    """
    if not strip_proxy:
        raise ConfigError("`strip_proxy=False` cannot be: the LLM that an agent is given already has its attempt's URL; leave it out")
    return rollout if function is None else rollout(function)


def prompt_rollout(function: Callable[..., Any]) -> FunctionAgent:
    """`@agl.rollout` for `(task, prompt_template[, rollout])`."""
    return rollout(function)


def reward(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, sync or async, whose result is the rollout's reward whenever it is called."""
    warn_old("`@reward` is old: write `agl.emit_reward(value)`, or return the value from the agent")

    @functools.wraps(function)
    def judge(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        emit_reward(value)
        return value

    @functools.wraps(function)
    async def judge_async(*args: Any, **kwargs: Any) -> Any:
        value = await function(*args, **kwargs)
        emit_reward(value)
        return value

    return judge_async if inspect.iscoroutinefunction(function) else judge
