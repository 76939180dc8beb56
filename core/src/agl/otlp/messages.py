"""OTLP's trace messages, as its JSON form names their fields (opentelemetry/proto/trace/v1/trace.proto)."""

from __future__ import annotations

from typing import Any, cast

import msgspec


class AnyValue(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One value; one of the fields is set, or none for an empty value."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    """A text in JSON, since not every reader has 64 bits."""
    double_value: float | str | None = None
    """A text for `NaN` and infinity."""
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None
    """Base64."""


class ArrayValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A list."""

    values: list[AnyValue] = []


class KeyValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attribute."""

    key: str
    value: AnyValue | None = None


class KeyValueList(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object."""

    values: list[KeyValue] = []


class Event(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Something that happened within a span."""

    name: str = ""
    time_unix_nano: int | str = 0
    attributes: list[KeyValue] = []


class Link(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Another span that has to do with it."""

    trace_id: str = ""
    span_id: str = ""


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How it ended."""

    code: int = 0
    """0 nothing is said, 1 well, 2 with an error."""
    message: str = ""


class OTLPSpan(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One span."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_span_id: str = ""
    name: str = ""
    kind: int = 0
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[KeyValue] = []
    events: list[Event] = []
    links: list[Link] = []
    status: Status | None = None


class Scope(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The library that made the spans."""

    name: str = ""
    version: str = ""


class ScopeSpans(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Spans of one library."""

    scope: Scope | None = None
    spans: list[OTLPSpan] = []


class Resource(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The program that it happened in."""

    attributes: list[KeyValue] = []


class ResourceSpans(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Spans of one program."""

    resource: Resource | None = None
    scope_spans: list[ScopeSpans] = []


class Traces(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One request (`ExportTraceServiceRequest`)."""

    resource_spans: list[ResourceSpans] = []


def plain(value: AnyValue | None) -> Any:
    """A value as JSON has it. Bytes stay base64."""
    if value is None:
        return None
    if value.array_value is not None:
        return [plain(item) for item in value.array_value.values]
    if value.kvlist_value is not None:
        return attributes_of(value.kvlist_value.values)
    if value.int_value is not None:
        return int(value.int_value)
    if value.double_value is not None:
        number = float(value.double_value)
        return number if abs(number) < float("inf") else str(value.double_value)
    return next((known for known in (value.string_value, value.bool_value, value.bytes_value) if known is not None), None)


def attributes_of(pairs: list[KeyValue]) -> dict[str, Any]:
    """Attributes as a dict; of two with one key the last counts."""
    return {pair.key: plain(pair.value) for pair in pairs}


def any_value(value: Any) -> AnyValue:
    """A JSON value as OTLP has it."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=str(value)) if -(2**63) <= value < 2**63 else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list) and _is_flat(items := cast("list[Any]", value)):
        return AnyValue(array_value=ArrayValue([any_value(item) for item in items]))
    return AnyValue(string_value=value if isinstance(value, str) else msgspec.json.encode(value).decode())


def pairs_of(attributes: dict[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them; those without a value are left out. What is nested becomes JSON, which every reader shows."""
    return [KeyValue(name, any_value(value)) for name, value in attributes.items() if value is not None]


def _is_flat(values: list[Any]) -> bool:
    """Whether OpenTelemetry takes the list as an attribute: values of one plain type."""
    return all(isinstance(value, (str, bool, int, float)) and type(value) is type(values[0]) for value in values)
