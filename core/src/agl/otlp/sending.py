"""A run's spans sent on as OTLP, to Langfuse, Phoenix, MLflow, Jaeger or anything else that reads it.

Each attempt is one trace: all of its spans carry the attempt's trace id. Model calls have their messages under the names of the
GenAI conventions and of OpenInference, rewards are events of the span that they judge. Token ids and logprobs stay in the store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import aiohttp

from agl.errors import ConfigError, GatewayError
from agl.otlp.messages import KeyValue, OTLPSpan, Resource, ResourceSpans, Scope, ScopeSpans, Traces, any_value
from agl.otlp.wire import JSON, PROTOBUF, encode, has_protobuf, rejected_in
from agl.otlp.writing import size_of, spans_to_send
from agl.store.base import Store
from agl.values import redacted

BATCH_SPANS = 256
BATCH_CHARACTERS = 2**20
"""Of texts in one request; receivers take a few MiB."""
ROLLOUTS = 20
"""Read from the store at a time."""
TRIES = 5
WAIT_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""
MAX_WAIT_SECONDS = 30.0
TIMEOUT_SECONDS = 30.0
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
"""Headers that `agl export --otlp` sends where no `--header` is given: `name=value,name=value`, percent-encoded, as OpenTelemetry has it."""
_NONE = 0
"""In place of a status where there was no answer."""
_RETRYABLE = frozenset({_NONE, 429, 502, 503, 504})
"""As the OTLP specification says."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    after: float | None = None
    """Seconds after which the receiver wants the next try."""


async def export_otlp(
    store: Store, run_id: str, endpoint: str, headers: Mapping[str, str] | None = None, *, protocol: str | None = None
) -> int:
    """Send the spans of all rollouts of a run.

    Args:
        store: where the run is.
        run_id: its id.
        endpoint: of the receiver, with or without `/v1/traces`.
        headers: for its authorisation.
        protocol: `http/protobuf` (the default where `agl-core[otlp]` is installed) or `http/json`.

    Returns:
        How many spans were taken.

    Raises:
        NotFoundError: there is no such run.
        ConfigError: an endpoint or a protocol that cannot work.
        GatewayError: the receiver refuses, or cannot be reached.
    """
    sender = _Sender(endpoint, headers or {}, protocol)
    await store.run(run_id)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    taken = 0
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async for batch in _batches(store, run_id):
            taken += len(batch) - await sender.send(session, _traces(run_id, batch))
    return taken


async def _batches(store: Store, run_id: str) -> AsyncGenerator[list[OTLPSpan]]:
    ids = await store.find(run_id)
    batch: list[OTLPSpan] = []
    size = 0
    for start in range(0, len(ids), ROLLOUTS):
        for result in await store.results(ids[start : start + ROLLOUTS]):
            for span in spans_to_send(result):
                if batch and (len(batch) == BATCH_SPANS or size + size_of(span) > BATCH_CHARACTERS):
                    yield batch
                    batch, size = [], 0
                batch.append(span)
                size += size_of(span)
    if batch:
        yield batch


def _traces(run_id: str, spans: list[OTLPSpan]) -> Traces:
    from agl import __version__

    resource = Resource(attributes=[KeyValue("service.name", any_value("agl")), KeyValue("agl.run_id", any_value(run_id))])
    scope = ScopeSpans(scope=Scope(name="agl", version=__version__), spans=spans)
    return Traces(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])


class _Sender:
    """Posts requests to one receiver."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], protocol: str | None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"an OTLP endpoint is a URL such as http://127.0.0.1:4318, given was {endpoint!r}")
        known = {"http/protobuf": PROTOBUF, "http/json": JSON}
        if protocol is not None and protocol not in known:
            raise ConfigError(f"OTLP is sent as one of {sorted(known)}, given was {protocol!r}")
        path = parts.path.rstrip("/")
        path = path if path.endswith("/v1/traces") else f"{path}/v1/traces"
        self._url = parts._replace(path=path).geturl()
        self._shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{path}"
        """Without a password."""
        self._content_type = known[protocol] if protocol else PROTOBUF if has_protobuf() else JSON
        self._headers = {**headers, "Content-Type": self._content_type}

    async def send(self, session: aiohttp.ClientSession, traces: Traces) -> int:
        """Send one request; returns how many spans the receiver rejected.

        Raises:
            GatewayError: it refuses all of them, or cannot be reached.
        """
        body, tries = encode(traces, self._content_type), 1
        answer = await self._post(session, body)
        while answer.status in _RETRYABLE and tries < TRIES:
            wait = WAIT_SECONDS * 2 ** (tries - 1) * random.uniform(0.8, 1.2) if answer.after is None else answer.after
            await asyncio.sleep(min(wait, MAX_WAIT_SECONDS))
            answer, tries = await self._post(session, body), tries + 1
        if 200 <= answer.status < 300:
            return rejected_in(answer.body, self._content_type)
        said = redacted(answer.body[:300].decode(errors="replace").strip())
        told = f"answered {answer.status}: {said}" if answer.status else f"cannot be reached: {said}"
        hint = "; check the headers (`--header`)" if answer.status in (401, 403) else ""
        raise GatewayError(f"the OTLP receiver {self._shown} {told}{hint}; tries: {tries}")

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> _Answer:
        try:
            async with session.post(self._url, data=body, headers=self._headers) as response:
                after = response.headers.get("Retry-After", "")
                return _Answer(response.status, await response.read(), float(after) if after.isdigit() else None)
        except (aiohttp.ClientError, TimeoutError) as error:
            return _Answer(_NONE, f"{type(error).__name__}: {error}".encode())


def parse_headers(given: tuple[str, ...]) -> dict[str, str]:
    """Headers written as `NAME=VALUE`.

    Raises:
        ConfigError: one of them has no `=`.
    """
    headers: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"a header is given as NAME=VALUE, such as `--header 'Authorization=Bearer …'`; given was {len(text)} characters"
            )
        headers[name.strip()] = value.strip()
    return headers


def headers_from(text: str) -> dict[str, str]:
    """Headers as `OTEL_EXPORTER_OTLP_HEADERS` has them: `name=value,name=value`, percent-encoded.

    Raises:
        ConfigError: one of them has no `=`.
    """
    return {name: unquote(value) for name, value in parse_headers(tuple(part for part in text.split(",") if part.strip())).items()}
