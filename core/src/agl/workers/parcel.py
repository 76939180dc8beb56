"""Parcel: an agent on its way to a worker.

Each part (the agent, its functions, plugins given in code) is pickled; what cannot be pickled is sent by the name under which a module has
it, so that the worker imports its own. Functions and classes of the script itself work as in `multiprocessing`: the worker imports the
script under another name, without what stands under `if __name__ == "__main__":`.
"""

from __future__ import annotations

import importlib
import multiprocessing.spawn
import os
import pickle
import pickletools
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agl.agents import AgentSpec, is_instance_of
from agl.errors import ConfigError
from agl.gateway.wire import PLACEHOLDER_KEY
from agl.plugins import Plugins
from agl.roles import Roles
from agl.runner import BoundAgent

_loading = False
"""Whether this process is a worker that imports its agent."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One object, pickled or by name."""

    pickled: bytes | None = None
    module: str | None = None
    name: str | None = None
    """None for the module itself."""

    def load(self) -> Any:
        """The object."""
        if self.pickled is not None:
            return pickle.loads(self.pickled)
        assert self.module is not None
        found = importlib.import_module(self.module)
        if self.name is None:
            return found
        if not hasattr(found, self.name):
            where = "the script" if self.module == "__main__" else f"`{self.module}`"
            raise ConfigError(
                f"{where} has no `{self.name}` where a worker imports it; make it at the top level, outside of functions and of "
                '`if __name__ == "__main__":`'
            )
        return getattr(found, self.name)

    def needs_main(self) -> bool:
        """Whether it lies in the script, or refers to something that does."""
        if self.pickled is None:
            return self.module == "__main__"
        return any(argument == "__main__" for _, argument, _ in pickletools.genops(self.pickled))


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to run an agent."""

    preparation: dict[str, Any]
    """What `multiprocessing` makes a process of its own kind ready with: search path, folder, arguments, the script where it is needed."""
    environment: dict[str, str]
    """AGL's variables of the process that sent it."""
    name: str
    agent: Part
    functions: dict[str, Part]
    """`input`, `output` and `reward`, those that there are."""
    agent_match: str | None
    roles: dict[str, str]
    takes_rewards: bool
    judges_itself: bool
    plugins: list[Part]
    discovers: bool
    """Whether installed plugins are loaded, too."""

    def load(self) -> tuple[BoundAgent, Plugins]:
        """The agent and the plugins, in this process.

        Raises:
            Exception: whatever importing them raises.
        """
        global _loading
        _loading = True
        os.environ.update(self.environment)
        os.environ.setdefault("OPENAI_API_KEY", PLACEHOLDER_KEY)
        own = [place for place in sys.path if place not in self.preparation["sys_path"]]
        multiprocessing.spawn.prepare(self.preparation | {"sys_path": [*self.preparation["sys_path"], *own]})
        plugins = Plugins([part.load() for part in self.plugins], discover=self.discovers)
        functions = {name: part.load() for name, part in self.functions.items()}
        spec = AgentSpec(self.agent.load(), name=self.name, **functions)
        told = {"takes_rewards": self.takes_rewards, "judges_itself": self.judges_itself}
        bound = BoundAgent(spec, plugins, Roles(self.agent_match, self.roles), **told)
        _loading = False
        return bound, plugins


def pack(agent: BoundAgent, plugins: Plugins, executor: str) -> Parcel:
    """An agent for workers.

    Args:
        agent: what they run.
        plugins: of the Trainer; of those given in code, the ones that act inside an attempt go along.
        executor: name of the executor, for errors.

    Raises:
        ConfigError: a part cannot be sent, or a worker itself asks for workers.
    """
    spec = agent.spec
    if _loading:
        raise ConfigError(
            f'a worker of `executor="{executor}"` imports the script that starts the training, and would start it again; put that part of the '
            'script under `if __name__ == "__main__":`'
        )
    if is_instance_of(spec.agent, "agl.programs:Program"):
        raise ConfigError(
            f'the agent `{spec.name}` is a command: each attempt is a process of its own already, on this machine. `executor="{executor}"` runs '
            'agents in Python; leave it out (`executor="thread"`)'
        )
    packer = _Packer(executor)
    functions = {"input": spec.input, "output": spec.output, "reward": spec.reward}
    sent = packer.part(spec.agent, f"the agent `{spec.name}`")
    return Parcel(
        agent=sent,
        functions={name: packer.part(value, f"`{name}` of `{spec.name}`") for name, value in functions.items() if value is not None},
        plugins=[packer.part(plugin, f"the plugin `{name}`") for name, plugin in plugins.given_inside()],
        preparation=packer.preparation(),
        environment={name: value for name, value in os.environ.items() if name.startswith("AGL_")},
        name=spec.name,
        agent_match=agent.roles.pattern.pattern if agent.roles.pattern else None,
        roles=agent.roles.roles,
        takes_rewards=agent.takes_rewards,
        judges_itself=agent.judges_itself,
        discovers=plugins.discovers,
    )


class _Packer:
    def __init__(self, executor: str) -> None:
        self._executor, self._needs_main = executor, False
        self._main = _main_script()

    def part(self, value: Any, what: str) -> Part:
        part = self._made(value, what)
        if part.needs_main():
            if not self._main:
                raise ConfigError(
                    f"{what} is defined in `__main__`, which has no file that a worker could import (a notebook, or `python -c`); move it into "
                    f'a module, or use `executor="thread"`'
                )
            self._needs_main = True
        return part

    def _made(self, value: Any, what: str) -> Part:
        if isinstance(value, types.ModuleType):
            return Part(module=value.__name__)
        try:
            return Part(pickled=pickle.dumps(value))
        except Exception as error:  # whatever the object's own code raises
            if (found := _global_name(value)) is not None:
                return Part(module=found[0], name=found[1])
            raise ConfigError(
                f"{what} cannot be sent to a worker process: {_described(value)} cannot be pickled ({type(error).__name__}: {error}), and no module "
                "has it under a name. Make it at the top level of a module or of the script (functions with `def`, objects such as "
                f'`graph = build_graph()`), from where each worker imports its own; or use `executor="thread"` (given was "{self._executor}")'
            ) from error

    def preparation(self) -> dict[str, Any]:
        folder = os.getcwd()
        known = {
            "name": "agl-worker",
            "sys_path": [place or folder for place in sys.path],
            "sys_argv": sys.argv,
            "dir": folder,
            "orig_dir": folder,
        }
        return {**known, **(self._main if self._needs_main else {})}


def _main_script() -> dict[str, str]:
    """How a worker imports the script, as `multiprocessing` says it; empty where it has no file."""
    main = sys.modules["__main__"]
    named = getattr(getattr(main, "__spec__", None), "name", None)
    if named is not None:
        return {"init_main_from_name": named}
    path = getattr(main, "__file__", None)
    return {"init_main_from_path": os.path.abspath(path)} if path and Path(path).exists() else {}


def _global_name(value: Any) -> tuple[str, str] | None:
    """Module and name under which an object is found again; the script last: some of its names exist only where it starts the training."""
    for module_name in sorted(sys.modules, key=lambda name: name in ("__main__", "__mp_main__")):
        names: Mapping[str, Any] = getattr(sys.modules[module_name], "__dict__", {})
        for name, found in list(names.items()):
            if found is value and module_name != "__mp_main__":
                return module_name, name
    return None


def _described(value: Any) -> str:
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)  # also of an `@agl.rollout` function
    if code is not None:
        return f"the function `{value.__qualname__}` of {code.co_filename}:{code.co_firstlineno}"
    return f"its {type(value).__module__}.{type(value).__qualname__}"
