"""Messages, arguments and results as bounded JSON values: a conversation may hold anything, and grows with every turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = 2_000
"""Characters kept of one text."""
TOTAL = 8_000
"""Characters kept of one value."""
ITEMS = 50
DEPTH = 6
_NOISE = frozenset({"created_at", "id", "metadata", "models_usage"})
"""Fields of a message that say nothing of what was said."""


def jsonable(value: Any) -> Any:
    """A copy of a value that JSON can hold; what is too long, too deep or unknown is replaced by a short text."""
    return _copy(value, [TOTAL], 0)


def _copy(value: Any, left: list[int], depth: int) -> Any:
    """`left` holds how many characters may still be kept."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)[:TEXT]
    if isinstance(value, str):
        return _text(value, left)
    if left[0] <= 0 or depth > DEPTH:
        return "…"
    fields = _fields(value)
    if fields is not None:
        return _object(fields, left, depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _array(list(value), left, depth)
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _text(value: str, left: list[int]) -> str:
    keep = max(min(TEXT, left[0]), 0)
    left[0] -= min(len(value), keep)
    return value if len(value) <= keep else f"{value[:keep]}… ({len(value)} characters)"


def _object(fields: Mapping[Any, Any], left: list[int], depth: int) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for number, (name, value) in enumerate(fields.items()):
        if number == ITEMS or left[0] <= 0:
            copied["…"] = f"{len(fields)} fields"
            break
        left[0] -= len(str(name)[:TEXT])
        copied[str(name)[:TEXT]] = _copy(value, left, depth + 1)
    return copied


def _array(values: list[Any], left: list[int], depth: int) -> list[Any]:
    copied: list[Any] = []
    for number, value in enumerate(values):
        if number == ITEMS or left[0] <= 0:
            copied.append(f"… ({len(values)} items)")
            break
        left[0] -= 1
        copied.append(_copy(value, left, depth + 1))
    return copied


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """Fields of a mapping, of a pydantic model or of a dataclass; None for anything else."""
    if isinstance(value, Mapping):
        return value
    cls = type(value)
    if hasattr(cls, "model_fields"):
        return {name: field for name, field in vars(value).items() if name not in _NOISE and field not in (None, [], "")}
    return vars(value) if hasattr(cls, "__dataclass_fields__") and hasattr(value, "__dict__") else None
