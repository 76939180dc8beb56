"""Options of a Responses request as those of chat completions: sampling, tools, the form of the text."""

from __future__ import annotations

from typing import Any

from agl.gateway.problems import check_single, invalid, object_of, objects_of, text_of, unsupported

_ELSEWHERE = frozenset({"input", "instructions", "previous_response_id", "conversation", "store"})
_TRANSLATED = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "max_output_tokens", "include", "stream_options"}
)
_WITHOUT_EFFECT = frozenset({"max_tool_calls"})
"""It limits hosted tools, of which there are none."""
_REFUSED = {
    "background": "the answer is given at once",
    "background_options": "the answer is given at once",
    "context_management": "the history is never cut",
    "image": "no images are made",
    "moderation": "nothing is moderated",
    "prompt": "stored prompts are OpenAI's own",
    "access_programs": "they are OpenAI's own",
}


def options_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The fields of the chat request beside its messages; those that Responses do not know go on as they are.

    Raises:
        Problem: one of an unknown form, or one that chat completions have nothing for.
    """
    for name, why in _REFUSED.items():
        if asked.get(name):
            raise unsupported(name, f"the endpoint of an attempt speaks chat completions, and {why}", "leave it out")
    check_single(asked)
    if asked.get("messages") is not None:
        raise invalid("messages", "left out: this API takes `input`", asked["messages"])
    if asked.get("truncation") not in (None, "disabled"):
        raise unsupported("truncation", "the history is never cut", 'leave it out or give "disabled"')
    handled = _ELSEWHERE | _TRANSLATED | _WITHOUT_EFFECT | _REFUSED.keys() | {"truncation"}
    options = {name: value for name, value in asked.items() if name not in handled and value is not None}
    if asked.get("max_output_tokens") is not None:
        options["max_completion_tokens"] = asked["max_output_tokens"]
    if options.get("stream"):
        options["stream_options"] = {"include_usage": True}
    return options | _tools(asked) | _text(asked) | _reasoning(asked) | _logprobs(asked)


def _tools(asked: dict[str, Any]) -> dict[str, Any]:
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(objects_of(asked.get("tools"), "tools"))]
    if not tools:  # the choice says nothing then, and endpoints refuse it
        return {}
    chosen: dict[str, Any] = {"tools": tools}
    if asked.get("tool_choice") is not None:
        chosen["tool_choice"] = _choice(asked["tool_choice"])
    if asked.get("parallel_tool_calls") is not None:
        chosen["parallel_tool_calls"] = asked["parallel_tool_calls"]
    return chosen


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unsupported(
            where,
            f"`{tool.get('type')}` is a tool that OpenAI's servers run or a form of their own, and the endpoint of an attempt has only functions",
            "give a function of your own in its place",
        )
    known = {name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None}
    text_of(known.get("name"), f"{where}.name")
    return {"type": "function", "function": known}


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    given = object_of(choice, "tool_choice")
    kind = given.get("type")
    if kind == "function":
        return {"type": "function", "function": {"name": given.get("name")}}
    if kind == "allowed_tools":
        tools = [
            {"type": "function", "function": {"name": tool.get("name")}} for tool in objects_of(given.get("tools"), "tool_choice.tools")
        ]
        return {"type": "allowed_tools", "allowed_tools": {"mode": given.get("mode", "auto"), "tools": tools}}
    raise unsupported("tool_choice", f"`{kind}` is no choice of a function", 'choose "auto", "none", "required", or a function by its name')


def _text(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("text") is None:
        return {}
    text = object_of(asked["text"], "text")
    options = {"verbosity": text["verbosity"]} if text.get("verbosity") is not None else {}
    form = object_of(text.get("format") or {"type": "text"}, "text.format")
    kind = form.get("type")
    if kind == "json_schema":
        fields = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
        return options | {"response_format": {"type": "json_schema", "json_schema": fields}}
    if kind == "json_object":
        return options | {"response_format": {"type": "json_object"}}
    if kind != "text":
        raise invalid("text.format.type", "one of `text`, `json_schema`, `json_object`", kind)
    return options


def _reasoning(asked: dict[str, Any]) -> dict[str, Any]:
    """The effort; a summary has no counterpart: reasoning is told as it is."""
    effort = object_of(asked.get("reasoning") or {}, "reasoning").get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(asked: dict[str, Any]) -> dict[str, Any]:
    include: Any = asked.get("include")
    wanted = isinstance(include, list) and "message.output_text.logprobs" in include
    return {"logprobs": True} if wanted or asked.get("top_logprobs") else {}
