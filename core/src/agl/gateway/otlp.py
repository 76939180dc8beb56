"""The gateway's OTLP receiver: spans of an instrumented agent, in the store before they are acknowledged."""

from __future__ import annotations

from aiohttp import web

from agl.errors import ConfigError, DataError
from agl.gateway.attempts import OpenAttempt
from agl.gateway.problems import Problem
from agl.gateway.recorder import Recorder
from agl.otlp.reading import spans_of
from agl.otlp.wire import JSON, PROTOBUF, answer, decode

MAX_SPANS = 10_000
"""Of one attempt: an agent that traces without end does not fill the store."""
OTHER_SIGNALS = ("metrics", "logs")
"""What OTLP exporters send beside traces: taken and not kept, so that an instrumented agent sees no errors."""


async def receive_traces(request: web.Request, opened: OpenAttempt, recorder: Recorder) -> web.Response:
    """Take a request of an OTLP exporter; returns when the store has its spans.

    Raises:
        Problem: no OTLP, or a form that cannot be read here.
    """
    content_type = _content_type(request)
    opened.attempt.sends_otlp = True
    try:
        spans, refused = spans_of(decode(await request.read(), content_type), opened.attempt)
    except ConfigError as error:
        raise Problem(415, str(error), "unsupported_media_type") from None
    except (DataError, web.RequestPayloadError) as error:
        raise Problem(400, str(error), "invalid_otlp") from None
    room = max(0, MAX_SPANS - len(opened.otlp_ids))
    refused += [f"an attempt may send {MAX_SPANS} spans"] * (len(spans) - room)
    for span in spans[:room]:
        opened.otlp_ids.add(span.span_id)
        recorder.add(span)
    await recorder.written()
    return _answer(content_type, len(refused), refused[0] if refused else "")


async def refuse_signal(request: web.Request) -> web.Response:
    """Answer metrics or logs: understood, and not kept."""
    await request.read()
    return _answer(_content_type(request), 0, "")


def _content_type(request: web.Request) -> str:
    if request.content_type not in (JSON, PROTOBUF):
        raise Problem(415, f"OTLP is sent as `{PROTOBUF}` or `{JSON}`, given was `{request.content_type}`", "unsupported_media_type")
    return request.content_type


def _answer(content_type: str, rejected: int, why: str) -> web.Response:
    return web.Response(body=answer(rejected, why, content_type), content_type=content_type)
