"""What the gateway and its clients agree on: names of headers and fields, and whose fault a refusal is."""

CALL_HEADER = "x-agl-call"
"""16 hexadecimal digits, the same over a client's own retries of one call."""
ROLE_HEADER = "x-agl-role"
"""Percent-encoded, since names of nodes and agents may be in any script."""
LLM_HEADER = "x-agl-llm"
"""Name of the `LLM` resource that the call goes to, percent-encoded; without it the request's model name decides."""
SPAN_HEADER = "x-agl-span"
"""Span id of a call, in its answer: what a reward of an agent in another process names."""
OVERRIDDEN_FIELD = "agl_overridden"
"""Field of a request: what the client put other values in for, with the agent's own; it goes no further than the gateway."""
NOT_THE_AGENTS = frozenset({401, 403, 404, 408, 425, 429})
"""Refusals by an endpoint that say nothing of the agent: the key and the model's name are the resource's, the load is everyone's."""
