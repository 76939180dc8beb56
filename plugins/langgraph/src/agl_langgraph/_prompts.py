"""The prompts that a graph tells before it runs: those of LangChain's `create_agent`, wherever it stands in the graph.

Any other node is a function, whose prompt nobody knows before it calls the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agl.agents import is_instance_of
from agl.resources import PromptTemplate
from agl_langgraph._adapter import GRAPH

MODEL_NODE = "create_agent.<locals>.model_node"
"""The function in which `create_agent` keeps what it was given; the graph has no public way to ask for it."""


def list_prompts(agent: Any) -> dict[str, PromptTemplate] | None:
    """System prompts and tool descriptions by name; None where there is no agent that tells them."""
    if not is_instance_of(agent, GRAPH):
        return None
    found: dict[str, set[str]] = {}
    for name, text in _of_graph(agent, "", None):
        found.setdefault(name, set()).add(text)
    known = {name: PromptTemplate(template=texts.pop()) for name, texts in found.items() if len(texts) == 1}
    return known or None


def _of_graph(graph: Any, path: str, agent_name: str | None) -> Iterator[tuple[str, str]]:
    metadata: Mapping[str, Any] = (getattr(graph, "config", None) or {}).get("metadata") or {}
    agent_name = metadata.get("lc_agent_name") or agent_name
    for name, node in graph.nodes.items():
        below, bound = f"{path}/{name}" if path else name, getattr(node, "bound", None)
        if is_instance_of(bound, GRAPH):
            yield from _of_graph(bound, below, agent_name)
        elif (given := _given(bound)) is not None:
            yield from _of_agent(agent_name or below, given)


def _given(node: Any) -> dict[str, Any] | None:
    """What `create_agent` was given; None for other nodes, and for an agent that may word each call anew."""
    functions: list[Callable[..., Any]] = [part for part in (getattr(node, "func", None), getattr(node, "afunc", None)) if part]
    if not functions or getattr(functions[0], "__qualname__", "") != MODEL_NODE:
        return None
    given: dict[str, Any] = {}
    for function in functions:
        given |= inspect.getclosurevars(function).nonlocals
    dynamic = ("wrap_model_call_handler", "awrap_model_call_handler", "initial_response_format")
    return None if any(given.get(name) is not None for name in dynamic) else given


def _of_agent(role: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    text = getattr(given.get("system_message"), "content", None)
    if isinstance(text, str):
        yield f"{role}.system_prompt", text
    for tool in given.get("default_tools") or ():
        function = convert_to_openai_tool(tool).get("function") or {}
        if isinstance(function.get("description"), str):
            yield f"{role}.tools.{function['name']}.description", function["description"]
