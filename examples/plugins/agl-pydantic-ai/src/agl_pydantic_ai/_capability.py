"""What is added to each run of an agent inside an attempt: a capability, Pydantic AI's own way to act on a run.

The only module of the plugin that imports the framework.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import agl
from agl.context import ActiveAttempt, current_span, set_call
from agl.spans import SpanKind
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_core import from_json, to_json

TEXT = 8_000
"""Characters of JSON that are kept of one value."""


@dataclass
class InAttempt(AbstractCapability[Any]):
    """Names who calls, records the run, and gives it the attempt's model where AGL's core cannot.

    The core routes what the OpenAI SDK sends, so that an `OpenAIChatModel` may stay. What is left are models of other SDKs, or
    of none, and the Responses API, which the gateway does not have.
    """

    attempt: ActiveAttempt
    last_call: str | None = field(default=None, init=False)
    """Span of the model call that ended last in this run."""
    _models: dict[str, OpenAIChatModel] = field(default_factory=dict, init=False)

    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        """An agent's run."""
        name = (ctx.agent and ctx.agent.name) or "agent"
        about = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": name,
            "agl.pydantic_ai.run_id": ctx.run_id,
            "agl.input": _plain(ctx.prompt),
        }
        try:
            with agl.role(name), agl.operation(name, SpanKind.AGENT, **about) as attributes:
                result = await handler()
                attributes["agl.output"] = _plain(result.output)
                return result
        finally:
            for model in self._models.values():
                await model.client.close()

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:
        """A call of the model, streamed or not; the gateway's own record of it hangs below this span."""
        with agl.operation("chat", SpanKind.MODEL, **{"gen_ai.operation.name": "chat"}) as attributes:
            response = await handler(request_context)
            self.last_call = current_span()
            attributes |= {"gen_ai.request.model": request_context.model.model_name, "agl.output": _plain(response.parts)}
            return response

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
        """A tool's work."""
        set_call(self.last_call)  # to which the rewards belong that the tool emits
        with _tool(call, args) as attributes:
            result = await handler(args)
            attributes["gen_ai.tool.call.result"] = _plain(result)
            return result

    async def on_tool_validate_error(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, error: Exception) -> Any:
        """A call with arguments that the tool does not take has failed, too."""
        with _tool(call, args):
            raise error

    async def resolve_model_id(self, ctx: Any, *, model_id: str) -> Model[Any] | None:
        """The attempt's model in place of a name such as `anthropic:…`: neither its package nor its key is needed."""
        return self._model(model_id.rpartition(":")[2]) if self.attempt.llm else None

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """The attempt's model in place of one whose calls the core does not see; settings stay those of the agent."""
        model = request_context.model
        while isinstance(model, WrapperModel):
            model = model.wrapped
        if self.attempt.llm and not isinstance(model, OpenAIChatModel):
            request_context.model = self._model(model.model_name)
        return request_context

    def _model(self, name: str) -> OpenAIChatModel:
        """The resource with this model name, else the first: the rule by which the gateway serves calls, too."""
        llms = list(self.attempt.resources.llms().values())
        llm = next((llm for llm in llms if llm.model == name), llms[0])
        if llm.model not in self._models:
            # Reading certificates takes longer than the rest of a run, and the gateway has none.
            http = DefaultAsyncHttpxClient(verify=llm.endpoint.startswith("https:"))
            client = AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key, http_client=http)
            self._models[llm.model] = OpenAIChatModel(llm.model, provider=OpenAIProvider(openai_client=client))
        return self._models[llm.model]


@contextlib.contextmanager
def _tool(call: Any, args: Any) -> Iterator[dict[str, Any]]:
    about = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool_name,
        "gen_ai.tool.call.id": call.tool_call_id,
        "gen_ai.tool.call.arguments": _plain(args),
    }
    with agl.operation(call.tool_name, SpanKind.TOOL, **about) as attributes:
        yield attributes


def _plain(value: Any) -> Any:
    """A value as JSON holds it, its beginning as text when it is long."""
    text = to_json(value, serialize_unknown=True, inf_nan_mode="constants")
    return from_json(text) if len(text) <= TEXT else text[:TEXT].decode(errors="ignore") + "…"
