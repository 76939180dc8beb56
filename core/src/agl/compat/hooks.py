"""Hook: Agent Lightning's callbacks around a rollout, as a plugin object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agl.compat.rewards import with_rewards
from agl.errors import ConfigError
from agl.hookspecs import hookimpl
from agl.results import RolloutResult
from agl.rollouts import Rollout


class Hook:
    """Derive from it and override `on_rollout_start` or `on_rollout_end`; give it as `Trainer(hooks=[…])`.

    A plugin object says the same with `agl_rollout_started(rollout)` and `agl_rollout_ended(result)`.
    """

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: Rollout) -> None:
        """Never called; a class that overrides it is refused."""

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Rollout) -> None:
        """Never called; a class that overrides it is refused."""

    async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Rollout) -> None:
        """Before the agent starts."""

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Rollout, spans: Any) -> None:
        """After the attempt is stored.

        Args:
            agent: tells nothing here, nor does `runner`.
            runner: see `agent`.
            rollout: with its attempt.
            spans: of the attempt, its rewards among them (`agl.find_final_reward(spans)`).
        """


class Untold:
    """Stands where Agent Lightning gives a hook its own object."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(
            f"a hook of AGL is not told the {self._name} (`{attribute}` was asked for); the rollout and its spans are what there is"
        )


class HookPlugin:
    """A hook in the form in which the Trainer calls plugins.

    Raises:
        ConfigError: no `Hook`, or one that overrides `on_trace_start` or `on_trace_end`.
    """

    def __init__(self, hook: Any) -> None:
        if not isinstance(hook, Hook):
            raise ConfigError(f"`hooks` takes objects derived from `agl.Hook`, given was {hook!r}; other plugin objects go into `plugins`")
        for name in ("on_trace_start", "on_trace_end"):
            if getattr(type(hook), name) is not getattr(Hook, name):
                raise ConfigError(
                    f"`{type(hook).__name__}.{name}` would never be called: AGL opens and closes traces itself. `on_rollout_end` is given the "
                    "spans; a plugin object with `agl_trace_rollout(attempt)` acts inside the attempt"
                )
        self._hook = hook
        self._others = {"agent": Untold("agent"), "runner": Untold("runner")}

    @hookimpl
    async def agl_rollout_started(self, rollout: Rollout) -> None:
        await self._hook.on_rollout_start(**self._others, rollout=rollout)

    @hookimpl
    async def agl_rollout_ended(self, result: RolloutResult) -> None:
        await self._hook.on_rollout_end(**self._others, rollout=result.rollout, spans=with_rewards(result))


def hook_plugins(hooks: Hook | Iterable[Hook] | None) -> list[HookPlugin]:
    """Plugins of one hook or of several."""
    given = [hooks] if isinstance(hooks, Hook) else [] if hooks is None else list(hooks)
    return [HookPlugin(hook) for hook in given]
