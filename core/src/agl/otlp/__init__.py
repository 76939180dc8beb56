"""OTLP: OpenTelemetry's spans, taken from any instrumented agent and sent on to any tool that reads them."""

from agl.otlp.sending import export_otlp

__all__ = ["export_otlp"]
