"""Items of the Responses API as messages of a chat."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from agl.gateway.dialects.blocks import tool_call
from agl.gateway.dialects.parts import content_of, image_part, split_images, text_part
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem, invalid, objects_of, text_of, unsupported

ROLES = ("user", "system", "developer", "assistant")


def items_of(given: Any) -> list[dict[str, Any]]:
    """`input` as items that have ids, as they are kept in a conversation.

    Raises:
        Problem: it is neither a text nor a list of objects.
    """
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else objects_of(given, "input")
    known = [_whole(item) if "role" in item else item for item in items]
    return [item if isinstance(item.get("id"), str) else {**item, "id": f"item_{secrets.token_hex(8)}"} for item in known]


def _whole(message: dict[str, Any]) -> dict[str, Any]:
    """A message in the form in which it is given again: with the parts of its content."""
    content = message.get("content")
    if isinstance(content, str):
        answer: dict[str, Any] = {"type": "output_text", "text": content, "annotations": []}
        content = [answer if message.get("role") == "assistant" else {"type": "input_text", "text": content}]
    return {"type": "message", "status": "completed", **message, "content": content}


def messages_of(given: Any, memory: Memory) -> list[dict[str, Any]]:
    """The chat messages of `input`.

    Args:
        given: a text, or items.
        memory: of the attempt, for items that are named by their id.

    Raises:
        Problem: an item of an unknown form, or one that chat completions have nothing for.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    chat = _Chat(memory)
    for index, item in enumerate(objects_of(given, "input")):
        chat.add(item, f"input[{index}]")
    return chat.finished()


class _Chat:
    """Messages, as one item after another makes them: what the model said in one turn is one message."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None
        """The model's message that the next item may belong to."""
        self._images: list[dict[str, Any]] = []
        """Of tool outputs: they follow all of these in a message of the user, since a tool's message holds text only."""

    def finished(self) -> list[dict[str, Any]]:
        self._put_images()
        return self._messages

    def add(self, item: dict[str, Any], where: str) -> None:
        kind = item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else None)
        add = _ADDERS.get(kind) if isinstance(kind, str) else None
        if add is None:
            raise unsupported(f"{where}.type", f"`{kind}` has no form in chat completions", f"known are {sorted(_ADDERS)}")
        if kind != "function_call_output":
            self._put_images()
        add(self, item, where)

    def message(self, item: dict[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise invalid(f"{where}.role", f"one of {list(ROLES)}", role)
        if role == "assistant":
            self._said(item, where)
            return
        self._turn = None
        self._messages.append({"role": role, "content": _content(item.get("content"), f"{where}.content")})

    def _said(self, item: dict[str, Any], where: str) -> None:
        turn = self._model("content", "refusal", "tool_calls")
        given = item.get("content")
        parts = [{"type": "output_text", "text": given}] if isinstance(given, str) else objects_of(given, f"{where}.content")
        for index, part in enumerate(parts):
            name = {"refusal": "refusal"}.get(str(part.get("type")), "content")
            field = "refusal" if name == "refusal" else "text"
            turn[name] = (turn.get(name) or "") + text_of(part.get(field), f"{where}.content[{index}].{field}")

    def reasoning(self, item: dict[str, Any], where: str) -> None:
        known = self._memory.items.get(str(item.get("id")), {})
        for name in ("content", "summary"):
            parts = objects_of(item.get(name) or known.get(name), f"{where}.{name}")
            if text := "\n".join(text_of(part.get("text"), f"{where}.{name}.text") for part in parts):
                self._model("content", "refusal", "tool_calls", "reasoning_content")["reasoning_content"] = text
                return

    def function_call(self, item: dict[str, Any], where: str) -> None:
        call_id, name, arguments = (text_of(item.get(field), f"{where}.{field}") for field in ("call_id", "name", "arguments"))
        self._model().setdefault("tool_calls", []).append(tool_call(call_id, name, arguments))

    def function_call_output(self, item: dict[str, Any], where: str) -> None:
        self._turn = None
        output, images = split_images(_content(item.get("output"), f"{where}.output"))
        self._messages.append({"role": "tool", "tool_call_id": text_of(item.get("call_id"), f"{where}.call_id"), "content": output})
        self._images += images

    def item_reference(self, item: dict[str, Any], where: str) -> None:
        known = self._memory.items.get(str(item.get("id")))
        if known is None or known.get("type") in (None, "item_reference"):
            raise Problem(
                400,
                f"`{where}`: this attempt has no item `{item.get('id')}`; items of responses with `store: false` and of other attempts are "
                "not kept: send the item itself",
                "item_not_found",
                param=where,
                infrastructure=True,
            )
        self.add(known, where)

    def _model(self, *after: str) -> dict[str, Any]:
        """The model's message to add to; a new one where the present one has something that this would come after."""
        if self._turn is None or any(self._turn.get(name) for name in after):
            self._turn = {"role": "assistant", "content": None}
            self._messages.append(self._turn)
        return self._turn

    def _put_images(self) -> None:
        if self._images:
            self._messages.append({"role": "user", "content": self._images})
            self._images = []


_ADDERS: Mapping[str, Callable[[_Chat, dict[str, Any], str], None]] = {
    "message": _Chat.message,
    "reasoning": _Chat.reasoning,
    "function_call": _Chat.function_call,
    "function_call_output": _Chat.function_call_output,
    "item_reference": _Chat.item_reference,
}


def _content(given: Any, where: str) -> str | list[dict[str, Any]]:
    return content_of(given, where, _part)


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return text_part(part.get("text"), where)
    if kind == "input_image" and part.get("image_url") is not None:
        return image_part(text_of(part["image_url"], f"{where}.image_url"), part.get("detail"))
    if kind == "input_file" and part.get("file_url") is None:
        return {"type": "file", "file": {name: part[name] for name in ("file_data", "file_id", "filename") if part.get(name) is not None}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise unsupported(
        where, f"a part of the type `{kind}` like this has no form in chat completions", "send text, an `image_url`, or `file_data`"
    )
