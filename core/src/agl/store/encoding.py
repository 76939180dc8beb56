"""Records as JSON that every database takes, whatever an agent put into them."""

from __future__ import annotations

from typing import Any

import msgspec

from agl.spans import Span

encode = msgspec.json.Encoder(enc_hook=repr).encode
"""A record as JSON; what JSON cannot hold as its `repr`."""


def span_json(span: Span) -> bytes:
    """A span as JSON; attributes that JSON cannot hold as their `repr`. It never fails."""
    try:
        return encode(span)
    except Exception:  # of the user's values, whose `repr` may raise anything
        attributes = {printable(str(name)): _as_json(value) for name, value in span.attributes.items()}
        texts = {name: printable(text) for name in ("name", "role", "error") if (text := getattr(span, name)) is not None}
        return encode(msgspec.structs.replace(span, attributes=attributes, **texts))


def printable(text: str) -> str:
    """A text that every database takes: without lone surrogates (half of an emoji, say) and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _as_json(value: Any) -> Any:
    try:
        return msgspec.json.decode(encode(value))
    except Exception:
        try:
            return printable(repr(value))
        except Exception as error:
            return f"<{type(value).__name__}: {type(error).__name__}>"
