"""Built-in plugin: everything that speaks through the OpenAI SDK uses the attempt's own endpoint.

It shadows `request` on the two public client classes, so that clients, frameworks and wrappers need not know: the method
is looked up on the class when a call is made, also by clients that exist already. The HTTP library below is left alone,
since it differs between major versions of the SDK. Outside an attempt a call passes through untouched.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

from agl import context, hookspecs
from agl.builtin.sdk_calls import KEPT, PATHS, Call, Lookup
from agl.context import ActiveAttempt
from agl.patching import Patch, Patches


@hookspecs.hookimpl
def agl_inject_resources(attempt: ActiveAttempt) -> None:
    """Install the shadow once per process; from then on each call finds its attempt in the context.

    Without resources only calls to the agent's own endpoint are watched: no reason to import the SDK, which takes half a second.
    """
    if (len(attempt.resources) > 0 or "openai" in sys.modules) and _installed_version() is not None:
        install()


def install() -> None:
    """Shadow `request` on `openai.OpenAI` and `openai.AsyncOpenAI`; a second call does nothing.

    Raises:
        PluginError: this version of the SDK lacks what the shadow relies on.
    """
    _PATCHES.apply()


def uninstall() -> None:
    """Give the client classes their own `request` back; where another library wrapped it since, leave that in place."""
    _PATCHES.undo()


def _sync_request(original: Callable[..., Any]) -> Callable[..., Any]:
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call(options)
        if call is None:
            return original(self, cast_to, options, *args, **kwargs)
        with call.made() as answered:
            answer = original(self, cast_to, call.options, *args, **kwargs)
            answered(answer)
            return answer

    return request


def _async_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call(options)
        if call is None:
            return await original(self, cast_to, options, *args, **kwargs)
        with call.made() as answered:
            answer = await original(self, cast_to, call.options, *args, **kwargs)
            answered(answer)
            return answer

    return request


def _call(options: Any) -> Call | Lookup | None:
    """The call of an attempt that these options ask for; None for all others."""
    attempt = context.current()
    if attempt is None:
        return None
    if options.url.startswith(KEPT):
        return Lookup(attempt, options)
    return Call(attempt, options) if options.url in PATHS and options.method.lower() == "post" else None


def _lacking() -> list[str]:
    """What the SDK's own description of a request lacks: better to fail now than to send a call of an attempt to the user's endpoint."""
    try:
        options = importlib.import_module("openai._models").FinalRequestOptions
    except (ImportError, AttributeError):
        return ["`openai._models.FinalRequestOptions` is gone"]
    fields = getattr(options, "model_fields", {})
    missing = [f"FinalRequestOptions.{name}" for name in ("method", "url", "headers", "json_data") if name not in fields]
    missing += [] if hasattr(options, "model_copy") else ["FinalRequestOptions.model_copy"]
    return [f"it lacks {missing}"] if missing else []


_WHY = "calls of an attempt go to its endpoint"
_PATCHES = Patches(
    "openai_sdk",
    [
        Patch("openai:OpenAI.request", _WHY, _sync_request, parameters=("cast_to", "options")),
        Patch("openai:AsyncOpenAI.request", _WHY, _async_request, parameters=("cast_to", "options")),
    ],
    supported="openai>=2.30,<4",
    canary=_lacking,
)


@functools.cache
def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("openai")
    except importlib.metadata.PackageNotFoundError:
        return None
