"""OTLP on the wire: JSON, or protobuf where `agl-core[otlp]` is installed."""

from __future__ import annotations

import base64
import importlib
import importlib.util
from typing import Any, cast

import msgspec

from agl.errors import ConfigError, DataError
from agl.otlp.messages import Traces

JSON, PROTOBUF = "application/json", "application/x-protobuf"
_IDS = ("traceId", "spanId", "parentSpanId")


def has_protobuf() -> bool:
    """Whether protobuf can be read and written here."""
    try:
        return importlib.util.find_spec("opentelemetry.proto") is not None and importlib.util.find_spec("google.protobuf") is not None
    except ModuleNotFoundError:  # there is no package above it
        return False


def decode(body: bytes, content_type: str) -> Traces:
    """A request as it came.

    Args:
        body: what was sent, unpacked.
        content_type: `application/json` or `application/x-protobuf`.

    Raises:
        ConfigError: protobuf, which cannot be read here.
        DataError: it is no OTLP.
    """
    request = None if content_type == JSON else _request()
    try:
        if request is None:
            return msgspec.json.decode(body, type=Traces)
        told = _json_format().MessageToDict(request.FromString(body), use_integers_for_enums=True)
        return msgspec.convert(_with_ids(told, _hex), Traces)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"the body is no OTLP traces request: {error}") from None
    except (*_decode_errors(), ValueError) as error:
        raise DataError(f"the body is no OTLP traces request in protobuf: {error}") from None


def encode(traces: Traces, content_type: str) -> bytes:
    """A request as it is sent.

    Raises:
        ConfigError: protobuf, which cannot be written here.
    """
    if content_type == JSON:
        return msgspec.json.encode(traces)
    told = _with_ids(msgspec.to_builtins(traces), _base64)
    return _json_format().ParseDict(told, _request()()).SerializeToString()


def answer(rejected: int, why: str, content_type: str) -> bytes:
    """The answer to a request of which some spans were not taken (`ExportTraceServiceResponse`); that of metrics and logs has the same form."""
    if not rejected:
        return b"{}" if content_type == JSON else b""
    if content_type == JSON:
        return msgspec.json.encode({"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": why}})
    message = _module("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceResponse()
    message.partial_success.rejected_spans, message.partial_success.error_message = rejected, why
    return message.SerializeToString()


def rejected_in(body: bytes, content_type: str) -> int:
    """How many spans a receiver says in its answer that it did not take; 0 where it says nothing that can be read."""
    try:
        if content_type == JSON:
            told: Any = msgspec.json.decode(body or b"{}")
            return int(told.get("partialSuccess", {}).get("rejectedSpans", 0))
        message = _module("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceResponse.FromString(body)
        return int(message.partial_success.rejected_spans)
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError, *_decode_errors()):
        return 0


def _with_ids(told: Any, convert: Any) -> Any:
    """The same with each id in another form: protobuf's JSON has base64 for bytes, OTLP's has hexadecimal digits for ids."""
    if isinstance(told, list):
        return [_with_ids(item, convert) for item in cast("list[Any]", told)]
    if not isinstance(told, dict):
        return told
    fields = cast("dict[str, Any]", told)
    return {name: convert(value) if name in _IDS else _with_ids(value, convert) for name, value in fields.items()}


def _hex(value: str) -> str:
    return base64.b64decode(value).hex()


def _base64(value: str) -> str:
    return base64.b64encode(bytes.fromhex(value)).decode()


def _request() -> Any:
    return _module("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceRequest


def _json_format() -> Any:
    return _module("google.protobuf.json_format")


def _decode_errors() -> tuple[type[Exception], ...]:
    return (_module("google.protobuf.message").DecodeError,) if has_protobuf() else ()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f'OTLP in protobuf needs `pip install "agl-core[otlp]"` ({error}); JSON needs nothing (OTEL_EXPORTER_OTLP_PROTOCOL=http/json)'
        ) from error
