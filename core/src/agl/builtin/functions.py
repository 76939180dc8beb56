"""Built-in adapters: functions, `@agl.rollout` functions and `LitAgent` classes."""

from __future__ import annotations

import inspect
from typing import Any

from agl.agents import AgentAdapter, FunctionAgent, LitAgent, call
from agl.hookspecs import hookimpl
from agl.resources import Resources
from agl.rollouts import Rollout
from agl.tasks import Mode


@hookimpl(trylast=True)
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Anything that is a `LitAgent`, an `@agl.rollout` function or a plain function."""
    if isinstance(agent, LitAgent):
        return LitAdapter(agent)
    if isinstance(agent, FunctionAgent):
        return RolloutFunctionAdapter(agent)
    if inspect.isroutine(agent):
        return PlainFunctionAdapter(agent)
    return None


class LitAdapter(AgentAdapter):
    """Runs a `LitAgent`: in train mode its `training_rollout`, else its `validation_rollout`; the async form if it has one."""

    returns_reward = True

    def __init__(self, agent: LitAgent) -> None:
        self.name = type(agent).__name__
        self.agent = agent
        forms = ("rollout_async", "training_rollout_async", "validation_rollout_async")
        self.suffix = "_async" if any(getattr(type(agent), form) is not getattr(LitAgent, form) for form in forms) else ""

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        kind = "training" if rollout.mode == Mode.TRAIN else "validation"
        return await call(getattr(self.agent, f"{kind}_rollout{self.suffix}"), task, resources, rollout)


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
