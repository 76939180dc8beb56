"""Built-in plugin: everything that speaks through the OpenAI SDK uses the attempt's own endpoint.

It shadows `request` on the two public client classes, so that clients, frameworks and wrappers need not know: the method
is looked up on the class when a call is made, also by clients that exist already. The HTTP library below is left alone,
since it differs between major versions of the SDK. Outside an attempt a call passes through untouched.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import quote

from agl import context, hookspecs
from agl.context import ActiveAttempt
from agl.errors import PluginError
from agl.resources import LLM

PATHS = frozenset({"/chat/completions", "/completions", "/responses"})
"""Calls that sample from a language model; embeddings, files and the rest stay on the user's endpoint."""

CALL_HEADER = "x-agl-call"
"""16 hexadecimal digits, the same over the SDK's own retries of one call."""
ROLE_HEADER = "x-agl-role"
"""Percent-encoded, since names of nodes and agents may be in any script."""

_lock = threading.Lock()
_shadowed: dict[type[Any], Callable[..., Any]] = {}


@hookspecs.hookimpl
def agl_inject_resources(attempt: ActiveAttempt) -> None:
    """Install the shadow once per process; from then on each call finds its attempt in the context."""
    if attempt.llm is not None and _installed_version() is not None:
        install()


def install() -> None:
    """Shadow `request` on `openai.OpenAI` and `openai.AsyncOpenAI`; a second call does nothing.

    Raises:
        PluginError: this version of the SDK lacks what the shadow relies on.
    """
    with _lock:
        if _shadowed:
            return
        sdk = importlib.import_module("openai")
        _check(sdk)
        for cls, wrap in ((sdk.OpenAI, _sync_request), (sdk.AsyncOpenAI, _async_request)):
            _shadowed[cls] = cls.request = wrap(cls.request)


def uninstall() -> None:
    """Give the client classes their own `request` back; where another library wrapped it since, leave that in place."""
    with _lock:
        for cls, wrapper in _shadowed.items():
            if vars(cls).get("request") is wrapper:
                # `request` is inherited; one that was the class's own is put back as it was.
                del cls.request
                original: Any = getattr(wrapper, "__wrapped__")  # noqa: B009
                if cls.request is not original:
                    cls.request = original
        _shadowed.clear()


def _sync_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        attempt, llm = _target(options)
        if attempt is None or llm is None:
            return original(self, cast_to, options, *args, **kwargs)
        call_id, last_call = secrets.token_hex(8), attempt.last_call
        result = original(self, cast_to, _redirected(options, attempt, llm, call_id), *args, **kwargs)
        _ended(attempt, call_id, last_call)
        return result

    return request


def _async_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        attempt, llm = _target(options)
        if attempt is None or llm is None:
            return await original(self, cast_to, options, *args, **kwargs)
        call_id, last_call = secrets.token_hex(8), attempt.last_call
        result = await original(self, cast_to, _redirected(options, attempt, llm, call_id), *args, **kwargs)
        _ended(attempt, call_id, last_call)
        return result

    return request


def _target(options: Any) -> tuple[ActiveAttempt | None, LLM | None]:
    attempt = context.current()
    if attempt is None or options.url not in PATHS or options.method.lower() != "post":
        return None, None
    return attempt, attempt.llm


def _redirected(options: Any, attempt: ActiveAttempt, llm: LLM, call_id: str) -> Any:
    """The same request for the attempt's endpoint: an absolute URL wins over the client's own base URL."""
    ours = {
        "Authorization": f"Bearer {llm.api_key}",
        # Azure clients, and clients of gateways with Azure's manners, send the user's own key under this name.
        "api-key": str(llm.api_key),
        CALL_HEADER: call_id,
        "traceparent": f"00-{attempt.trace_id}-{context.current_span()}-01",
    }
    role = context.current_role()
    if role:
        ours[ROLE_HEADER] = quote(role, safe="/ :,;@()[]<>=+&!$'*")
    replaced = {name.lower() for name in ours} | {ROLE_HEADER}
    # Without headers of its own the request holds a marker that is no mapping.
    given: Any = options.headers
    theirs: dict[str, Any] = dict(given) if isinstance(cast(object, given), Mapping) else {}
    headers = {name: value for name, value in theirs.items() if name.lower() not in replaced} | ours
    return options.model_copy(update={"url": llm.endpoint.rstrip("/") + options.url, "headers": headers})


def _ended(attempt: ActiveAttempt, call_id: str, last_call: str | None) -> None:
    """Say which call was the last one, for rewards: of the attempt, of this context, and of the span around it."""
    context.set_call(call_id)
    span_id = context.current_span()
    if span_id is not None:
        # A framework may make the call in a context of its own; by its span the caller still finds it.
        attempt.call_spans[span_id] = attempt.call_spans.get(call_id, call_id)
    if attempt.last_call == last_call:  # else a gateway in this process has told, with the id of the try that succeeded
        attempt.last_call = call_id


def _check(sdk: Any) -> None:
    """Fail now, with the version in the message, rather than send a call of an attempt to the user's endpoint."""
    missing = [f"openai.{name}.request" for name in ("OpenAI", "AsyncOpenAI") if not hasattr(getattr(sdk, name, None), "request")]
    try:
        options = importlib.import_module("openai._models").FinalRequestOptions
    except (ImportError, AttributeError):
        missing.append("openai._models.FinalRequestOptions")
    else:
        fields = getattr(options, "model_fields", {})
        missing += [f"FinalRequestOptions.{name}" for name in ("method", "url", "headers") if name not in fields]
        missing += [] if hasattr(options, "model_copy") else ["FinalRequestOptions.model_copy"]
    if missing:
        raise PluginError(
            f"the built-in plugin `openai_sdk` cannot route calls of the OpenAI SDK {_installed_version()}: it lacks {missing}. "
            "Install a version that AGL knows: `pip install 'openai>=2.30,<4'`"
        )


@functools.cache
def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("openai")
    except importlib.metadata.PackageNotFoundError:
        return None
