"""What a client is refused with, before a dialect puts it in its own words."""

from __future__ import annotations

import json
from typing import Any, cast


class Problem(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: what was given, what exists, what to do.
        code: a short name for programs.
        param: the field of the request that it is about.
        infrastructure: whether it says nothing of the agent's behaviour, so that no reward may come of it.
    """

    def __init__(self, status: int, message: str, code: str, *, param: str | None = None, infrastructure: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.infrastructure = status, message, code, param, infrastructure


def invalid(where: str, wanted: str, given: Any) -> Problem:
    """A field that does not have the form it must have."""
    return Problem(400, f"`{where}` must be {wanted}, given was {shown(given)}", "invalid_request", param=where)


def unsupported(where: str, what: str, instead: str) -> Problem:
    """A feature that chat completions do not have; no behaviour of the agent can bring it up, so it is not the agent's failure."""
    return Problem(400, f"`{where}`: {what}; {instead}", "unsupported", param=where, infrastructure=True)


def check_single(asked: dict[str, Any]) -> None:
    """Several answers have no form in this dialect: they would be sampled and never seen.

    Raises:
        Problem: the request asks for them.
    """
    if asked.get("n") not in (None, 1):
        raise unsupported("n", "an answer of this API is one", "leave it out, or ask for chat completions")


def shown(value: Any) -> str:
    """A JSON value, cut to one line."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def object_of(value: Any, where: str) -> dict[str, Any]:
    """A JSON object of a request.

    Raises:
        Problem: it is something else.
    """
    if not isinstance(value, dict):
        raise invalid(where, "an object", value)
    return cast("dict[str, Any]", value)


def objects_of(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of JSON objects of a request; none for null.

    Raises:
        Problem: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(where, "a list", value)
    return [object_of(item, f"{where}[{index}]") for index, item in enumerate(cast("list[Any]", value))]


def text_of(value: Any, where: str) -> str:
    """A text of a request.

    Raises:
        Problem: it is something else.
    """
    if not isinstance(value, str):
        raise invalid(where, "a text", value)
    return value
