"""What is added to each run of an agent inside an attempt: a capability, Pydantic AI's own way to act on a run.

The only module of the plugin that imports the framework.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import agl
from agl.context import ActiveAttempt, current_role, current_span, set_call
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
    of none. One of OpenAI's Responses API has a chat model in its place, which saves a translation.
    """

    attempt: ActiveAttempt
    name: str
    """The agent's, or a stand-in for it."""
    last_call: str | None = field(default=None, init=False)
    """Span of the model call that ended last in this run."""
    _model: OpenAIChatModel | None = field(default=None, init=False)

    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        """An agent's run."""
        about = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": self.name,
            "agl.pydantic_ai.run_id": ctx.run_id,
            "agl.input": _plain(ctx.prompt),
        }
        try:
            with agl.role(self.name), agl.operation(self.name, SpanKind.AGENT, **about) as attributes:
                result = await handler()
                attributes["agl.output"] = _plain(result.output)
                return result
        finally:
            if self._model is not None:
                await self._model.client.close()

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
        with agl.role(self.name):  # names are looked up before the run begins
            return self._attempts_own()

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """The attempt's model in place of one whose calls the core does not see; settings stay those of the agent."""
        model = request_context.model
        while isinstance(model, WrapperModel):
            model = model.wrapped
        if not isinstance(model, OpenAIChatModel):
            request_context.model = self._attempts_own() or request_context.model
        return request_context

    def _attempts_own(self) -> OpenAIChatModel | None:
        """The model of this role, made once for a run; None where the agent's own is left alone."""
        llm = self.attempt.llm_for(current_role())
        if llm is not None and self._model is None:
            # Reading certificates takes longer than the rest of a run, and the gateway has none.
            http = DefaultAsyncHttpxClient(verify=llm.endpoint.startswith("https:"))
            client = AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key, http_client=http)
            self._model = OpenAIChatModel(llm.model, provider=OpenAIProvider(openai_client=client))
        return self._model


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
