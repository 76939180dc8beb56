"""Stands before `Agent.iter`, through which every run of every agent goes, as soon as Pydantic AI is imported and not before.

An agent may import its framework inside the function that runs it, and an agent of another framework never needs this
one: an import that has not happened is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import agl
from agl.context import ActiveAttempt, set_call
from agl.patching import Patch, Patches

MODULE = "pydantic_ai.agent"
"""Where `Agent` is defined."""


def _in_attempts(original: Callable[..., Any]) -> Callable[..., Any]:
    def iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = agl.current()
        return original(self, *args, **kwargs) if attempt is None else _run(attempt, original, self, args, kwargs)

    return iter


@contextlib.asynccontextmanager
async def _run(attempt: ActiveAttempt, original: Callable[..., Any], agent: Any, args: Any, kwargs: Any) -> AsyncIterator[Any]:
    """A run of an agent inside an attempt, with a capability more."""
    from agl_pydantic_ai._capability import InAttempt

    added = InAttempt(attempt, agent.name or "agent")
    capabilities = [*(kwargs.get("capabilities") or ()), added]
    async with original(agent, *args, **{**kwargs, "capabilities": capabilities}) as run:
        yield run
    if added.last_call is not None:
        # The framework calls models in contexts of their own: say here which call was the last one, for rewards that follow.
        set_call(added.last_call)


PATCHES = Patches(
    "pydantic_ai",
    [Patch(f"{MODULE}:Agent.iter", "runs are recorded, and use the attempt's model", _in_attempts, parameters=("capabilities",))],
    supported="pydantic-ai-slim>=2.20,<3",
)
