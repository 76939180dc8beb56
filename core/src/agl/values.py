"""What a framework's span tells of inputs and outputs: bounded JSON values without secrets.

A state may hold anything, and a long history at every node. The full text of every model call is in the gateway's span.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, cast

TEXT = 2_000
"""Characters kept of one text."""
TOTAL = 8_000
"""Characters kept of one value."""
ITEMS = 50
DEPTH = 6
SECRET = "***"
_MESSAGE = ("content", "tool_calls", "name", "tool_call_id")
_SECRET_NAME = re.compile(
    r"(^|[_\-.])(api[_-]?key|authorization|cookies?|credentials?|passphrase|passwd|password|private[_-]?key|secret([_-]?key)?|"
    r"(access|auth|bearer|id|refresh|session)[_-]?token)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(r"\b(?:sk-[\w-]{16,}|Bearer [\w.~+/=-]{8,})")


def jsonable(value: Any) -> Any:
    """A copy of a value that JSON can hold; what is too long, too deep or unknown is replaced by a short text.

    Values of fields with a secret's name (`api_key`, `password`, `access_token`, …), and keys that can be told by their form
    (`sk-…`, `Bearer …`), are replaced by `***`.
    """
    return _copy(value, [TOTAL], 0)


def _copy(value: Any, left: list[int], depth: int) -> Any:
    """`left` holds how many characters may still be kept."""
    if isinstance(value, str):
        return _text(value, left)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**53) < value < 2**53 else str(value)[:TEXT]
    if left[0] <= 0 or depth > DEPTH:
        return "…"
    fields = _fields(value)
    if fields is not None:
        return _object(fields, left, depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _array(value, left, depth)
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def redacted(text: str) -> str:
    """A text with `***` in place of keys that can be told by their form."""
    return _SECRET_TEXT.sub(SECRET, text) if "sk-" in text or "Bearer " in text else text


def _text(value: str, left: list[int]) -> str:
    value = redacted(value)
    keep = max(min(TEXT, left[0]), 0)
    left[0] -= min(len(value), keep)
    return value if len(value) <= keep else f"{value[:keep]}… ({len(value)} characters)"


def _object(fields: Mapping[Any, Any], left: list[int], depth: int) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for number, (name, value) in enumerate(fields.items()):
        if number == ITEMS or left[0] <= 0:
            copied["…"] = f"{len(fields)} fields"
            break
        left[0] -= len(name) if isinstance(name, str) else 8
        known = name if isinstance(name, str) else str(name)[:TEXT]
        copied[known] = SECRET if value is not None and _is_secret(known) else _copy(value, left, depth + 1)
    return copied


@functools.lru_cache(1024)  # the same few names come again at every node
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _array(values: Any, left: list[int], depth: int) -> list[Any]:
    copied: list[Any] = []
    for number, value in enumerate(values):
        if number == ITEMS or left[0] <= 0:
            copied.append(f"… ({len(values)} items)")
            break
        left[0] -= 1
        copied.append(_copy(value, left, depth + 1))
    return copied


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """Fields of a mapping, a message, a pydantic model or a dataclass; None for anything else."""
    if isinstance(value, dict):
        return cast("Mapping[Any, Any]", value)
    if isinstance(value, (list, tuple)):
        return None
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    cls: Any = type(cast(object, value))
    held: Any = getattr(cast(object, value), "__dict__", None)
    if not isinstance(held, dict):
        return None
    own = cast("dict[str, Any]", held)
    known: Any = getattr(cls, "model_fields", None)
    if known is not None and "type" in known and "content" in known:
        return {"type": own.get("type")} | {name: own[name] for name in _MESSAGE if own.get(name)}
    if known is not None or hasattr(cls, "__dataclass_fields__"):
        return {name: field for name, field in own.items() if not name.startswith("_")}
    return None
