"""Who calls: the path of agent and node names that a run stands under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a run stands."""

    path: str = ""
    """The framework's own path of names, `""` where it has none."""
    base: str = ""
    """The role that user code set around (`agl.role`), to go in front."""
    cut: str = ""
    """The framework's path at the point where `base` was set: `base` stands for it."""

    @property
    def role(self) -> str | None:
        """The full path; None when nobody gave a name."""
        below = self.path
        if self.cut and below == self.cut:
            below = ""
        elif self.cut and below.startswith(self.cut + "/"):
            below = below[len(self.cut) + 1 :]
        return "/".join(part for part in (self.base, below) if part) or None


def place_of(outer: Place | None, metadata: Mapping[str, Any], name: str | None, users_role: str | None, *, changed: bool) -> Place:
    """Where a run stands, below the run `outer`.

    Args:
        outer: place of the run around it.
        metadata: LangChain's metadata of the run.
        name: name that the user gave to the run, if any.
        users_role: the role that is set in the context.
        changed: whether user code has set it since `outer` started.
    """
    around = outer or Place()
    base, cut = (users_role or "", around.path) if changed else (around.base, around.cut)
    path = graph_path(metadata) or "/".join(part for part in (around.path, name) if part)
    return Place(path, base, cut)


def graph_path(metadata: Mapping[str, Any]) -> str:
    """Path that LangGraph gives to a run: the agent's own name, else the nodes from the outermost graph inwards."""
    agent = metadata.get("lc_agent_name")
    if agent:
        return str(agent)
    parts = str(metadata.get("langgraph_checkpoint_ns") or "").split("|")
    # A part is `node:uuid`; a bare number counts graphs that one node called itself.
    nodes = [part.rpartition(":")[0] or part for part in parts if part and not part.isdigit()]
    return "/".join(nodes) or str(metadata.get("langgraph_node") or "")
