"""Endings: how an attempt's agent ended, in words that the store keeps."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from agl.errors import ProgramError, WorkerError

OUTPUT_LIMIT = 20_000
"""Characters kept of an agent's output."""


class AgentFailed(Exception):
    """The agent failed in another process; its text is the traceback there."""


def stopped_from_outside(error: BaseException) -> bool:
    """Whether the runner was told to stop, rather than that the agent's own code raised a CancelledError."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def traceback_of(error: BaseException) -> str:
    """The traceback from the user's or the framework's first frame on; the whole one when AGL's own code raised."""
    if isinstance(error, (ProgramError, AgentFailed, WorkerError)):  # these have said why, and where
        return str(error)
    return "".join(traceback.format_exception(type(error), error, _users_part(error) or error.__traceback__))


def place_of(error: BaseException) -> str:
    """Where an agent was when it was stopped; empty when it hangs in a thread, which cannot be asked."""
    inner = error.__cause__ if isinstance(error, TimeoutError) and error.__cause__ is not None else error
    if told := getattr(inner, "__notes__", None):  # by the process that it ran in
        return "".join(told)
    frames = traceback.format_tb(_users_part(inner))
    return "The agent was here (most recent call last):\n" + "".join(frames) if frames else ""


def _users_part(error: BaseException) -> TracebackType | None:
    frame = error.__traceback__
    while frame is not None and _is_own(frame.tb_frame.f_globals.get("__name__", "")):
        frame = frame.tb_next
    return frame


def _is_own(module: str) -> bool:
    package = module.partition(".")[0]
    return package in ("agl", "asyncio", "concurrent") or package.startswith("agl_")


def as_json(value: Any) -> Any:
    """A value as JSON, its text where JSON cannot hold it."""
    hook: Callable[[Any], Any] = str
    try:
        encoded = msgspec.json.encode(value, enc_hook=hook)
        return msgspec.json.decode(encoded) if len(encoded) <= OUTPUT_LIMIT else encoded[:OUTPUT_LIMIT].decode(errors="ignore")
    except (TypeError, ValueError, RecursionError):
        return repr(value)[:OUTPUT_LIMIT]
