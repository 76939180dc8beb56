"""Parts of a chat message's content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agl.gateway.problems import objects_of, text_of

Part = dict[str, Any]


def text_part(given: Any, where: str) -> Part:
    """A text.

    Raises:
        Problem: it is none.
    """
    return {"type": "text", "text": text_of(given, f"{where}.text")}


def image_part(url: str, detail: Any = None) -> Part:
    """An image by its URL, which may be a `data:` URL."""
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail is not None else {})}


def content_of(given: Any, where: str, part_of: Callable[[Part, str], Part]) -> str | list[Part]:
    """The content of a chat message: a text where it is no more than that, else its parts.

    Args:
        given: a text, or parts in the client's dialect.
        part_of: makes one of them a part of a chat message.

    Raises:
        Problem: it is neither.
    """
    if isinstance(given, str):
        return given
    return simple([part_of(part, f"{where}[{index}]") for index, part in enumerate(objects_of(given, where))])


def simple(parts: list[Part]) -> str | list[Part]:
    """Parts as a text where there is one text only, since every template takes that."""
    if not parts:
        return ""
    return str(parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def split_images(content: str | list[Part]) -> tuple[str | list[Part], list[Part]]:
    """What a tool's message may hold, and the rest."""
    if isinstance(content, str):
        return content, []
    return simple([part for part in content if part["type"] == "text"]), [part for part in content if part["type"] != "text"]
