"""AGL: train the agent you already have."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agl.agents import AgentAdapter, AgentSpec, LitAgent, agent, is_instance_of, rollout
    from agl.algorithms import Algorithm
    from agl.builtin.llm_judge import LLMJudge
    from agl.builtin.relative_judge import RelativeJudge
    from agl.builtin.tool_outcome import ToolOutcome
    from agl.context import current, emit_message, emit_object, emit_reward, operation, role
    from agl.errors import AglError
    from agl.feedback import add_reward
    from agl.fitted import FitResult
    from agl.hookspecs import AGL_PLUGIN_API, hookimpl
    from agl.judges import Judge
    from agl.programs import command
    from agl.prompting import prompts
    from agl.resources import LLM, PromptTemplate, Resources
    from agl.results import Evaluation, Group, RolloutResult
    from agl.rewards import NoReward, Reward
    from agl.rollouts import Attempt, Rollout
    from agl.runs import Run
    from agl.spans import Span
    from agl.tasks import Mode, Task
    from agl.trainer import Trainer
    from agl.transitions import Row, Transition

__version__ = "0.1.0"

# Names are imported when they are first used: `import agl` loads no module of the store, the gateway or a plugin.
_HOMES = {
    "agl.agents": ("AgentAdapter", "AgentSpec", "LitAgent", "agent", "is_instance_of", "rollout"),
    "agl.algorithms": ("Algorithm",),
    "agl.builtin.llm_judge": ("LLMJudge",),
    "agl.builtin.relative_judge": ("RelativeJudge",),
    "agl.builtin.tool_outcome": ("ToolOutcome",),
    "agl.context": ("current", "emit_message", "emit_object", "emit_reward", "operation", "role"),
    "agl.errors": ("AglError",),
    "agl.feedback": ("add_reward",),
    "agl.fitted": ("FitResult",),
    "agl.hookspecs": ("AGL_PLUGIN_API", "hookimpl"),
    "agl.judges": ("Judge",),
    "agl.programs": ("command",),
    "agl.prompting": ("prompts",),
    "agl.resources": ("LLM", "PromptTemplate", "Resources"),
    "agl.results": ("Evaluation", "Group", "RolloutResult"),
    "agl.rewards": ("NoReward", "Reward"),
    "agl.rollouts": ("Attempt", "Rollout"),
    "agl.runs": ("Run",),
    "agl.spans": ("Span",),
    "agl.tasks": ("Mode", "Task"),
    "agl.trainer": ("Trainer",),
    "agl.transitions": ("Row", "Transition"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AGL_PLUGIN_API",
    "LLM",
    "AgentAdapter",
    "AgentSpec",
    "AglError",
    "Algorithm",
    "Attempt",
    "Evaluation",
    "FitResult",
    "Group",
    "Judge",
    "LLMJudge",
    "LitAgent",
    "Mode",
    "NoReward",
    "PromptTemplate",
    "RelativeJudge",
    "Resources",
    "Reward",
    "Rollout",
    "RolloutResult",
    "Row",
    "Run",
    "Span",
    "Task",
    "ToolOutcome",
    "Trainer",
    "Transition",
    "add_reward",
    "agent",
    "command",
    "current",
    "emit_message",
    "emit_object",
    "emit_reward",
    "hookimpl",
    "is_instance_of",
    "operation",
    "prompts",
    "role",
    "rollout",
]


def __getattr__(name: str) -> Any:
    """A public name from its module, an algorithm by the name it is registered under (`agl.GRPO`), or a name of Agent Lightning."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name.isupper():
        from agl.registry import algorithm_class

        return algorithm_class(name)
    value = importlib.import_module("agl.compat").find(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
