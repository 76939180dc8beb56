"""`@llm_rollout` and `@prompt_rollout`: what `@agl.rollout` does, by their older names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from agl.agents import FunctionAgent, rollout
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
