"""The plugin as a part of a package."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

from agl.errors import ConfigError
from agl.testing.bench import USERS, plugins_of
from agl.testing.case import FrameworkCase
from agl.testing.expected import require
from agl.testing.framework_checks import need

_IMPORT = """
import importlib, json, socket, sys
module, blocked, sys.path[:] = json.loads(sys.argv[1])
asked = []

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            asked.append(name)
            raise ModuleNotFoundError(f"No module named {name!r} (the check hides it)", name=name)

def connect(*given):
    raise OSError(f"the module connects to {given[1:]} while it is imported")

sys.meta_path.insert(0, Absent())
socket.socket.connect = socket.socket.connect_ex = connect
importlib.import_module(module)
print(json.dumps(asked))
"""


def imports_without_the_framework(case: FrameworkCase) -> None:
    """If this fails, importing the plugin's module imports its framework, or connects somewhere: all pay for it who have it installed.

    Import the framework inside the functions that need it, and recognise its objects by name (`agl.is_instance_of`).
    """
    need(case, "frameworks")
    given = json.dumps([case.plugin_module(), list(case.frameworks), sys.path])
    done = subprocess.run([sys.executable, "-c", _IMPORT, given], capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"`{case.plugin_module()}` cannot be imported without {list(case.frameworks)}:\n{done.stderr}")
    asked = json.loads(done.stdout.splitlines()[-1])
    require(not asked, f"importing `{case.plugin_module()}` tries to import {asked}")


def entry_point_resolves(case: FrameworkCase) -> None:
    """If this fails, `pip install` of your package does not give AGL the plugin, or does not say which versions of the framework it fits.

    In pyproject.toml: `[project.entry-points.agl]` with `name = "your_package.plugin"`, and the optional dependencies `instruments`.
    """
    name = case.entry_point
    need(case, "entry_point")
    found = [entry for entry in importlib.metadata.entry_points(group="agl") if entry.name == name]
    others = sorted(entry.name for entry in importlib.metadata.entry_points(group="agl"))
    require(len(found) == 1, f"{len(found)} installed packages have the entry point `{name}` in the group `agl`; there are {others}")
    require(
        found[0].load() is case.plugin_object(), f"the entry point `{name}` names {found[0].value}, which is not the plugin of this case"
    )
    metadata = found[0].dist.metadata if found[0].dist else None
    extras = (metadata.get_all("Provides-Extra") or []) if metadata is not None else []
    own = metadata is not None and metadata["Name"] == "agl-core"
    require(
        own or "instruments" in extras, f"the package of `{name}` has no extra `instruments` with the versions of the framework it fits"
    )
    plugins_of(case)


class _Foreign:
    """An agent of a framework that nobody knows."""

    name = "foreign"

    def run(self, given: Any) -> Any:
        return given

    invoke = ainvoke = kickoff = __call__ = run


def recognises_its_own_agents_only(case: FrameworkCase) -> None:
    """If this fails, `agl_adapt_agent` does not take the framework's agents, or takes those of others away from their plugins.

    Say yes to your framework's classes only; not to whatever has a `run` method.
    """
    try:
        plugins_of(case).adapt_agent(case.make_agent(USERS))
    except ConfigError as error:
        require(False, f"the agent is not recognised: {error}")
    alone = plugins_of(case, built_in=False)
    for foreign in (_Foreign(), object(), {"agent": 1}, "agent"):
        try:
            adapter = alone.adapt_agent(foreign)
        except ConfigError:
            continue
        require(False, f"the plugin takes {foreign!r}, which is none of its agents, and gives {adapter!r}")
