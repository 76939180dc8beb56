"""Built-in adapters: functions, `@agl.rollout` functions, `LitAgent` classes and programs."""

from __future__ import annotations

import inspect
from typing import Any, cast

from agl.agents import AgentAdapter, FunctionAgent, LitAgent, call, is_instance_of
from agl.errors import ConfigError
from agl.hookspecs import hookimpl
from agl.resources import Resources
from agl.rollouts import Rollout
from agl.tasks import Mode


@hookimpl(trylast=True)
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Anything that is a `LitAgent`, an `@agl.rollout` function, a program or a plain function."""
    if isinstance(agent, LitAgent):
        return LitAdapter(cast("LitAgent[Any]", agent))
    if isinstance(agent, FunctionAgent):
        return RolloutFunctionAdapter(agent)
    if is_instance_of(agent, "agl.programs:Program"):
        from agl.programs import ProgramAdapter

        return ProgramAdapter(agent)
    if inspect.isroutine(agent):
        return PlainFunctionAdapter(agent)
    return None


class LitAdapter(AgentAdapter):
    """Runs a `LitAgent`: in train mode its `training_rollout`, else its `validation_rollout`; the async form if it has one."""

    returns_reward = True

    def __init__(self, agent: LitAgent[Any]) -> None:
        self.name = type(agent).__name__
        self.agent = agent
        _refuse_old_forms(agent)
        forms = ("rollout_async", "training_rollout_async", "validation_rollout_async")
        self.suffix = "_async" if any(getattr(type(agent), form) is not getattr(LitAgent, form) for form in forms) else ""

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        kind = "training" if rollout.mode == Mode.TRAIN else "validation"
        return await call(getattr(self.agent, f"{kind}_rollout{self.suffix}"), task, resources, rollout)


def _refuse_old_forms(agent: LitAgent[Any]) -> None:
    """Methods of Agent Lightning that nobody would call, or that would be called with other arguments."""
    name = type(agent).__name__
    for hook in ("on_rollout_start", "on_rollout_end"):
        if hasattr(agent, hook):
            raise ConfigError(
                f"`{name}.{hook}` would never be called; put it into a class derived from `agl.Hook` and give `Trainer(hooks=[…])`"
            )
    for form in ("training_rollout", "validation_rollout", "training_rollout_async", "validation_rollout_async"):
        if "rollout_id" in inspect.signature(getattr(agent, form)).parameters:
            raise ConfigError(f"`{name}.{form}` has the form of Agent Lightning 0.1; its parameters are `(self, task, resources, rollout)`")


class RolloutFunctionAdapter(AgentAdapter):
    """Runs an `@agl.rollout` function with the resources that its parameters name."""

    returns_reward = True

    def __init__(self, agent: FunctionAgent) -> None:
        self.name = agent.function.__name__
        self.agent = agent

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        return await call(self.agent.function, task, **self.agent.arguments(resources, rollout))


class PlainFunctionAdapter(AgentAdapter):
    """Runs a function of one argument; a reward function judges what it returns."""

    def __init__(self, function: Any) -> None:
        self.name = function.__name__
        self.function = function

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        return await call(self.function, task)
