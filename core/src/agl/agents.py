"""Agents: what a user hands to a Trainer, and the one interface that runners call.

A framework's object goes through `agl.agent(obj, input=…, reward=…)`, a function through `@agl.rollout`, a class derives
from `LitAgent`; plugins turn each of them into an `AgentAdapter`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar, cast

from agl.compat.old import warn_old
from agl.errors import ConfigError
from agl.resources import LLM, PromptTemplate, Resources
from agl.rewards import Reward
from agl.rollouts import Rollout

T = TypeVar("T")


class AgentAdapter:
    """How to run one kind of agent. A plugin derives from it; `run` is called for many attempts at once."""

    name = "agent"

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run the agent on one task inside the attempt's context.

        Args:
            task: what the agent may see of the task: the user's `input` function has been applied.
            resources: as this attempt may use them.
            rollout: the rollout, with its attempt.

        Returns:
            The agent's output; a reward when `returns_reward` is true.
        """
        raise NotImplementedError

    returns_reward = False
    """Whether what `run` returns is the reward itself (a float) or the output that a reward function judges."""

    judges_itself = False
    """Whether `own_reward` knows the reward where nobody else judges: then the agent is given the whole task, as it is."""

    def own_reward(self, output: Any) -> Reward | None:
        """The reward that the agent's output holds, asked for inside the attempt; None where it was given in another way.

        Raises:
            RewardError: there is none.
        """
        raise NotImplementedError


class AgentSpec:
    """An agent with its input, output and reward functions, as `agl.agent` makes it."""

    def __init__(
        self,
        agent: Any,
        *,
        input: Callable[[dict[str, Any]], Any] | None = None,
        output: Callable[[Any], Any] | None = None,
        reward: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.agent = agent
        self.input = _callable(input, "input")
        self.output = _callable(output, "output")
        self.reward = _callable(reward, "reward")
        self.name = name or getattr(agent, "name", None) or getattr(agent, "__name__", None) or type(agent).__name__

    def __repr__(self) -> str:
        return f"agl.agent({self.name})"


def agent(
    agent: Any,
    *,
    input: Callable[[dict[str, Any]], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    reward: Callable[..., Any] | None = None,
    name: str | None = None,
) -> AgentSpec:
    """The agent you have, ready for a Trainer; the object itself is not changed.

    Args:
        agent: a framework's object (a compiled LangGraph graph, a LangChain runnable, …) or a function of one argument.
        input: what the agent may see of a task: task -> the framework's input. Without it the task's `input` field is
            taken; a task without that field is refused, so that a reference answer never leaks by accident.
        output: the framework's result -> what `reward` sees.
        reward: `(task, output) -> float`, may be async.
        name: for reports.

    Raises:
        ConfigError: one of them is not callable.
    """
    return AgentSpec(agent, input=input, output=output, reward=reward, name=name)


class LitAgent(Generic[T]):
    """An agent as a class, in the form that users of Agent Lightning know; `LitAgent[MyTask]` tells type checkers what a task is.

    Override `rollout` or `rollout_async`; `training_rollout` and `validation_rollout` (and their async forms) where they
    differ. Return a float to give the reward, or None when it was emitted with `agl.emit_reward`.
    """

    tracer: Tracer

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made.tracer = Tracer()
        return made

    def __init__(self, *, trained_agents: str | None = None) -> None:
        if trained_agents is not None:
            warn_old(f'`trained_agents` has no effect: say `Trainer(adapter={{"agent_match": {trained_agents!r}}})`')

    def rollout(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """Run the agent on one task."""
        raise NotImplementedError(f"`{type(self).__name__}` must define `rollout` or `rollout_async`")

    async def rollout_async(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """Run the agent on one task, in the runner's event loop."""
        raise NotImplementedError(f"`{type(self).__name__}` must define `rollout` or `rollout_async`")

    def training_rollout(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """As `rollout`, in `train` mode."""
        return self.rollout(task, resources, rollout)

    def validation_rollout(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """As `rollout`, in `val` and `test` mode."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """As `rollout_async`, in `train` mode."""
        return await self.rollout_async(task, resources, rollout)

    async def validation_rollout_async(self, task: T, resources: Resources, rollout: Rollout) -> float | None:
        """As `rollout_async`, in `val` and `test` mode."""
        return await self.rollout_async(task, resources, rollout)


class Tracer:
    """What `self.tracer` gives to a `LitAgent`: callback objects of the frameworks, bound to the current attempt."""

    def get_langchain_handler(self) -> Any:
        """A LangChain callback handler for `config={"callbacks": [...]}`; needs the `agl-langgraph` plugin."""
        from agl.plugins import active

        return active().callback_handler("langchain")


class FunctionAgent:
    """A function as an agent, as `@agl.rollout` makes it; calling it still calls the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.parameters = list(inspect.signature(function).parameters)
        if not self.parameters or self.parameters[0] != "task":
            raise ConfigError(f"the first parameter of `{function.__name__}` must be named `task`, it has {self.parameters}")
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def arguments(self, resources: Resources, rollout: Rollout) -> dict[str, Any]:
        """Values for the parameters after `task`: `resources`, `rollout`, resources by name, `llm` and `prompt_template`.

        Raises:
            ConfigError: a parameter that no resource fits.
        """
        return {name: self._argument(name, resources, rollout) for name in self.parameters[1:]}

    def _argument(self, name: str, resources: Resources, rollout: Rollout) -> Any:
        if name in ("resources", "rollout"):
            return resources if name == "resources" else rollout
        if name in resources:
            return resources[name]
        kind = {"llm": LLM, "prompt_template": PromptTemplate}.get(name)
        fits = [value for value in resources.values.values() if kind is not None and isinstance(cast(object, value), kind)]
        if not fits:
            raise ConfigError(
                f"`{self.function.__name__}` asks for `{name}`; this version of the resources has {sorted(resources.values)}. "
                "Parameters may be `task`, `llm`, `prompt_template`, `resources`, `rollout` or a resource's name"
            )
        return fits[0]


def rollout(function: Callable[..., Any]) -> FunctionAgent:
    """Make a function an agent: `(task, llm, …) -> reward`, sync or async.

    Parameters are given by name: `task` first, then any of `llm`, `prompt_template`, `resources`, `rollout`, or the name
    of a resource.

    Raises:
        ConfigError: the first parameter is not `task`.
    """
    return FunctionAgent(function)


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a sync function in a thread that keeps the context, await an async one."""
    method = getattr(type(function), "__call__", None)  # noqa: B004 (of an object that is called like a function)
    if any(inspect.iscoroutinefunction(candidate) for candidate in (function, inspect.unwrap(function), method)):
        return await function(*args, **kwargs)
    value: object = await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **kwargs))
    return await cast(Awaitable[Any], value) if isinstance(value, Awaitable) else value


def is_instance_of(value: Any, *names: str) -> bool:
    """Whether a value's class or a base of it is one of `package.module:Class`, by name: nothing is imported.

    The module part matches as a prefix, since frameworks move classes between their private modules.
    """
    for base in type(value).__mro__:
        for name in names:
            module, _, cls = name.partition(":")
            if base.__name__ == cls and (base.__module__ == module or base.__module__.startswith(module + ".")):
                return True
    return False


def _callable(value: Any, name: str) -> Any:
    if value is not None and not callable(value):
        raise ConfigError(f"`{name}` must be callable, given was {value!r}")
    return value
