"""LangChain's callbacks, turned into the runs of a trace. The only module of the plugin that imports LangChain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.tools import ToolException

from agl.spans import SpanKind
from agl.values import jsonable
from agl_langgraph._cache import BypassedCache
from agl_langgraph._tracing import Trace, current_trace

log = logging.getLogger("agl.langgraph")


class Handler(BaseCallbackHandler):
    """Records one attempt. LangChain calls it inside the context of each run, in sync and async code alike."""

    run_inline = True
    ignore_retry = ignore_custom_event = True  # type: ignore[assignment]

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, metadata: Any = None, **kwargs: Any
    ) -> None:
        """A graph, a node, or a chain."""
        name = kwargs.get("name") or _class_name(serialized) or "chain"
        attributes = {**_graph_attributes(run_id, metadata), "agl.input": jsonable(inputs)}
        self._trace.start(SpanKind.NODE, name, run_id, kwargs.get("parent_run_id"), metadata or {}, attributes, given_name=_given(name))

    def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
        """Its end."""
        self._trace.end(run_id, {"agl.output": jsonable(outputs)})

    def on_chain_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """Its failure; a node that hands over or interrupts does so with an exception, which is none."""
        if any(base.__name__ == "GraphBubbleUp" for base in type(error).__mro__):
            self._trace.end(run_id, {"agl.output": f"<{type(error).__name__}>"})
        else:
            self._trace.end(run_id, error=error)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: Any, parent_run_id: Any = None, metadata: Any = None, **kwargs: Any
    ) -> None:
        """A tool call."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "tool"
        attributes = {
            **_graph_attributes(run_id, metadata),
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": kwargs.get("tool_call_id"),
            "gen_ai.tool.call.arguments": jsonable(kwargs["inputs"] if kwargs.get("inputs") is not None else input_str),
        }
        self._trace.start(SpanKind.TOOL, name, run_id, kwargs.get("parent_run_id"), metadata or {}, _known(attributes))

    def on_tool_end(self, output: Any, *, run_id: Any, **kwargs: Any) -> None:
        """Its end; a tool that handles its own failure says so in its message."""
        failed = getattr(output, "status", None) == "error"
        error = ToolException(str(getattr(output, "content", ""))) if failed else None
        self._trace.end(run_id, {"gen_ai.tool.call.result": jsonable(output)}, error)

    def on_tool_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """Its failure."""
        self.on_chain_error(error, run_id=run_id)

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: Any, parent_run_id: Any = None, metadata: Any = None, **kwargs: Any
    ) -> None:
        """A look-up of documents."""
        attributes = {**_graph_attributes(run_id, metadata), "agl.input": jsonable(query)}
        name = kwargs.get("name") or _class_name(serialized) or "retriever"
        self._trace.start(SpanKind.OPERATION, name, run_id, kwargs.get("parent_run_id"), metadata or {}, attributes)

    def on_retriever_end(self, documents: Any, *, run_id: Any, **kwargs: Any) -> None:
        """Its end."""
        self._trace.end(run_id, {"agl.output": jsonable(documents)})

    def on_retriever_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """Its failure."""
        self._trace.end(run_id, error=error)

    def on_chat_model_start(self, serialized: Any, messages: Sequence[Any], *, run_id: Any, **kwargs: Any) -> None:
        """A call of a chat model; the messages belong to the agent and are only read."""
        self._start_model("chat", serialized, messages[0] if len(messages) == 1 else messages, run_id, **kwargs)

    def on_llm_start(self, serialized: Any, prompts: Sequence[str], *, run_id: Any, **kwargs: Any) -> None:
        """A call of a text completion model."""
        self._start_model("text_completion", serialized, prompts[0] if len(prompts) == 1 else prompts, run_id, **kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: Any, **kwargs: Any) -> None:
        """A part of a streamed answer."""
        self._trace.first_token(run_id)

    def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:
        """The model's answer."""
        attributes = _answer(response)
        if attributes.get("agl.cached"):
            _warn_cached()
        self._trace.end(run_id, attributes)

    def on_llm_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
        """The model call's failure."""
        self._trace.end(run_id, error=error)

    def _start_model(self, operation: str, serialized: Any, prompt: Any, run_id: Any, **kwargs: Any) -> None:
        _bypass_cache()
        metadata, name = kwargs.get("metadata") or {}, kwargs.get("name")
        parameters: Mapping[str, Any] = kwargs.get("invocation_params") or {}
        attributes = {
            **_graph_attributes(run_id, metadata),
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": parameters.get("model") or parameters.get("model_name"),
            "agl.input": jsonable(prompt),
        }
        label = name or _class_name(serialized) or "model"
        given = name if name != _class_name(serialized) else None
        self._trace.start(SpanKind.MODEL, label, run_id, kwargs.get("parent_run_id"), metadata, _known(attributes), given_name=given)


def handler_of(trace: Trace) -> Handler:
    """The one handler of an attempt: LangChain adds the same object to a run only once."""
    if trace.handler is None:
        trace.handler = Handler(trace)
    return trace.handler


def current_handler() -> BaseCallbackHandler:
    """The handler of the attempt that this code runs in; outside of one, a handler that does nothing."""
    trace = current_trace()
    return BaseCallbackHandler() if trace is None else handler_of(trace)


def _graph_attributes(run_id: Any, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    found = metadata or {}
    names = {"agl.langgraph.node": "langgraph_node", "agl.langgraph.step": "langgraph_step", "gen_ai.agent.name": "lc_agent_name"}
    return {"agl.langchain.run_id": str(run_id), **{ours: found[theirs] for ours, theirs in names.items() if theirs in found}}


def _answer(response: Any) -> dict[str, Any]:
    """Output, token counts and ids of an `LLMResult`, from its first generation."""
    first = response.generations[0][0] if response.generations and response.generations[0] else None
    message = getattr(first, "message", None)
    usage: Mapping[str, Any] = getattr(message, "usage_metadata", None) or {}
    about: Mapping[str, Any] = getattr(message, "response_metadata", None) or {}
    finish = about.get("finish_reason")
    attributes = {
        "agl.output": jsonable(message if message is not None else getattr(first, "text", None)),
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        "gen_ai.response.id": about.get("id"),
        "gen_ai.response.model": about.get("model_name"),
        "gen_ai.response.finish_reasons": [finish] if finish else None,
        # LangChain says so of an answer that comes from a cache.
        "agl.cached": True if usage.get("total_cost") == 0 else None,
    }
    return _known(attributes)


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _class_name(serialized: Any) -> str | None:
    if not isinstance(serialized, Mapping):
        return None
    return serialized.get("name") or next(reversed(serialized.get("id") or [None]), None)


def _given(name: str) -> str | None:
    """A run's name unless it is the class name that LangChain falls back to."""
    return None if name.startswith("Runnable") or name in ("LangGraph", "chain") else name


def _bypass_cache() -> None:
    """LangChain reads its global cache after the callbacks have run, so that one set at any time is bypassed."""
    cache = get_llm_cache()
    if cache is not None and not isinstance(cache, BypassedCache):
        set_llm_cache(BypassedCache(cache))


_warned = False


def _warn_cached() -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning(
            "a chat model answered from its own `cache=` in an attempt: such an answer is not the policy's and is not trained on; "
            "remove the cache"
        )
