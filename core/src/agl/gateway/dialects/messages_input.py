"""Messages and tools of Anthropic's API as those of a chat."""

from __future__ import annotations

from typing import Any

import msgspec

from agl.gateway.dialects.blocks import tool_call
from agl.gateway.dialects.parts import content_of, image_part, simple, split_images, text_part
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem, invalid, object_of, objects_of, text_of, unsupported

NOT_JSON = "INVALID_JSON"
"""Field of a tool's input that holds arguments that are no JSON object, as Anthropic's documentation names it."""
_Json = dict[str, Any]


def messages_of(asked: _Json, memory: Memory) -> list[_Json]:
    """The chat messages of `system` and `messages`.

    Args:
        memory: of the attempt, for the arguments of tool calls as the model wrote them.

    Raises:
        Problem: a block of an unknown form, or one that chat completions have nothing for.
    """
    system = asked.get("system")
    texts = [system] if isinstance(system, str) else [block.get("text") for block in objects_of(system, "system")]
    chat: list[_Json] = []
    if texts:
        chat.append({"role": "system", "content": "\n".join(text_of(text, "system") for text in texts)})
    given = objects_of(asked.get("messages"), "messages")
    if not given:
        raise invalid("messages", "a list with at least one message", asked.get("messages"))
    for index, message in enumerate(given):
        chat += _message(message, f"messages[{index}]", memory)
    if given[-1].get("role") == "assistant":
        what = "the last message is the assistant's, and chat completions cannot go on within a message"
        raise unsupported("messages", what, "end with a message of the user")
    return chat


def _message(message: _Json, where: str, memory: Memory) -> list[_Json]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise invalid(f"{where}.role", "`user`, `assistant` or `system`", role)
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise invalid(f"{where}.content", "a text or a list of blocks", content)
    blocks = objects_of(content, f"{where}.content")  # pyright: ignore[reportUnknownArgumentType]
    return [_said(blocks, where, memory)] if role == "assistant" else _asked(str(role), blocks, where)


def _said(blocks: list[_Json], where: str, memory: Memory) -> _Json:
    message: _Json = {"role": "assistant", "content": None}
    for index, block in enumerate(blocks):
        place, kind = f"{where}.content[{index}]", block.get("type")
        if kind == "text":
            message["content"] = (message["content"] or "") + text_of(block.get("text"), f"{place}.text")
        elif kind == "thinking":
            message["reasoning_content"] = message.get("reasoning_content", "") + text_of(block.get("thinking"), f"{place}.thinking")
        elif kind == "tool_use":
            call_id, name = text_of(block.get("id"), f"{place}.id"), text_of(block.get("name"), f"{place}.name")
            arguments = _arguments(object_of(block.get("input"), f"{place}.input"), memory.arguments.get(call_id))
            message.setdefault("tool_calls", []).append(tool_call(call_id, name, arguments))
        elif kind != "redacted_thinking":  # which only Anthropic's servers can read
            raise _no_form(place, kind)
    return message


def _arguments(given: _Json, written: str | None) -> str:
    """The arguments as the model wrote them, where they are still the same."""
    if written is not None and input_of(written) == given:
        return written
    return str(given[NOT_JSON]) if given.keys() == {NOT_JSON} else msgspec.json.encode(given).decode()


def input_of(arguments: str) -> _Json:
    """The arguments of a tool call as an object."""
    if not arguments.strip():
        return {}
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {NOT_JSON: arguments}


def _asked(role: str, blocks: list[_Json], where: str) -> list[_Json]:
    chat: list[_Json] = []
    rest: list[_Json] = []
    for index, block in enumerate(blocks):
        place = f"{where}.content[{index}]"
        if block.get("type") == "tool_result":
            output, images = split_images(content_of(block.get("content"), f"{place}.content", _part))
            call_id = text_of(block.get("tool_use_id"), f"{place}.tool_use_id")
            chat.append({"role": "tool", "tool_call_id": call_id, "content": output})
            rest += images
        else:
            rest.append(_part(block, place))
    return [*chat, {"role": role, "content": simple(rest)}] if rest or not chat else chat


def _part(block: _Json, where: str) -> _Json:
    kind = block.get("type")
    if kind == "text":
        return text_part(block.get("text"), where)
    source = object_of(block.get("source") or {}, f"{where}.source")
    form = source.get("type")
    if kind == "image" and form == "url":
        return image_part(text_of(source.get("url"), f"{where}.source.url"))
    if kind == "image" and form == "base64":
        return image_part(_data_url(source, where))
    if kind == "document" and form == "text":
        return text_part(source.get("data"), f"{where}.source")
    if kind == "document" and form == "base64":
        return {"type": "file", "file": {"filename": str(block.get("title") or "document.pdf"), "file_data": _data_url(source, where)}}
    raise _no_form(where, f"{kind}` with a source of the type `{form}" if form else kind)


def _data_url(source: _Json, where: str) -> str:
    media, data = (text_of(source.get(name), f"{where}.source.{name}") for name in ("media_type", "data"))
    return f"data:{media};base64,{data}"


def _no_form(where: str, kind: Any) -> Problem:
    return unsupported(
        where, f"a block of the type `{kind}` has no form in chat completions", "send text, images, tool uses and tool results"
    )


def tools_of(asked: _Json) -> _Json:
    """Tools and their choice, as fields of a chat request.

    Raises:
        Problem: as above; a tool that Anthropic defines or runs is one of these.
    """
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(objects_of(asked.get("tools"), "tools"))]
    if not tools:
        return {}
    choice = object_of(asked.get("tool_choice") or {}, "tool_choice")
    chosen: _Json = {"tools": tools}
    if choice:
        kind = choice.get("type")
        if kind not in ("auto", "any", "none", "tool"):
            raise invalid("tool_choice.type", "one of `auto`, `any`, `tool`, `none`", kind)
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chosen["tool_choice"] = named if kind == "tool" else {"any": "required"}.get(str(kind), kind)
        if choice.get("disable_parallel_tool_use") is not None:
            chosen["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return chosen


def _tool(tool: _Json, where: str) -> _Json:
    if tool.get("type") not in (None, "custom"):
        raise unsupported(
            where,
            f"`{tool['type']}` is a tool that Anthropic defines or runs, and the endpoint of an attempt has only tools with an `input_schema`",
            "give a tool of your own in its place",
        )
    function: _Json = {"name": text_of(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = object_of(tool.get("input_schema"), f"{where}.input_schema")
    return {"type": "function", "function": function | ({"strict": tool["strict"]} if tool.get("strict") is not None else {})}
