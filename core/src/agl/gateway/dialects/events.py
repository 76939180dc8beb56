"""Named server-sent events."""

from __future__ import annotations

from typing import Any

import msgspec


def event(data: dict[str, Any]) -> bytes:
    """An event that is named as its data's `type`."""
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
