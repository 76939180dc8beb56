"""The model of a run inside an attempt: whatever models its agents have, their calls go to the attempt's endpoint.

A model keeps its API: Responses, which the SDK takes by itself, or chat completions. Models of other SDKs are served by
the SDK's own model for chat completions; calls that are left alone go to the agent's own model, as they are.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
from agents import Model, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, RunConfig, UserError
from agents.models import get_default_model_settings
from agents.models._openai_shared import get_use_responses_by_default

from agl import context
from agl.agents import is_instance_of
from agl.gateway.wire import NOT_THE_AGENTS
from agl.resources import LLM
from agl_openai_agents._clients import client_for
from agl_openai_agents._runs import Run

log = logging.getLogger("agl.openai_agents")

OTHER_SDKS = ("agents.extensions.models.litellm_model:LitellmModel", "agents.extensions.models.any_llm_model:AnyLLMModel")
"""Models that do not speak through the OpenAI SDK, whose calls the core cannot lead."""
OVER_WEBSOCKET = "agents.models.openai_responses:OpenAIResponsesWSModel"
UNSERVED = frozenset({"unsupported", "response_not_found", "conversation_not_found", "item_not_found"})
"""Codes by which the gateway refuses what cannot be had as chat completions; none is the agent's fault."""
_warned: set[type] = set()


class AttemptModel(Model):
    """Stands in a run's configuration, where it goes before the models of all agents.

    Args:
        run: that it belongs to; tells who speaks.
        users: the run's configuration as the user gave it.
        chained: whether the run leaves its history to the Responses API.
    """

    def __init__(self, run: Run, users: RunConfig, *, chained: bool) -> None:
        self.run, self.users, self._chained = run, users, chained
        self._last: Model | None = None
        self._own_used: list[Model] = []
        self._clients: dict[tuple[int, str], tuple[Any, openai.AsyncOpenAI]] = {}
        """The attempt's client by the id of the user's, which is kept beside it so that the id stays its own."""

    async def get_response(self, system_instructions: Any, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any) -> Any:
        """As the agent's own model does."""
        async with self._call(model_settings) as (model, settings):
            response = await model.get_response(system_instructions, input, settings, *args, **kwargs)
        self._note(response.output)
        return response

    async def stream_response(
        self, system_instructions: Any, input: Any, model_settings: ModelSettings, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As the agent's own model does."""
        async with self._call(model_settings) as (model, settings):
            events: Any = model.stream_response(system_instructions, input, settings, *args, **kwargs)
            try:
                async for event in events:
                    if event.type == "response.completed":
                        self._note(event.response.output)
                    yield event
            finally:
                if hasattr(events, "aclose"):
                    await events.aclose()

    def get_retry_advice(self, request: Any) -> Any:
        """Of the model that was called last."""
        return self._last.get_retry_advice(request) if self._last is not None else None

    def _supports_default_prompt_cache_key(self) -> bool:
        """Asked by the SDK: whether a call that is left alone may hold one."""
        if self._llm() is not None:
            return False
        supports = getattr(self._own(), "_supports_default_prompt_cache_key", None)
        return bool(supports()) if supports is not None else False

    async def _cleanup_on_run_end(self, owner: object) -> None:
        """Asked by the SDK at the end of a run."""
        for model in self._own_used:
            clean_up = getattr(model, "_cleanup_on_run_end", None)
            if clean_up is not None:
                await clean_up(owner)

    @contextlib.asynccontextmanager
    async def _call(self, settings: ModelSettings) -> AsyncGenerator[tuple[Model, ModelSettings]]:
        """Who answers the call, with which settings; notes what goes wrong at the endpoint."""
        llm, attempt = self._llm(), self.run.trace.attempt
        model, settings = (self._own(), self._own_settings(settings)) if llm is None else (await self._model_for(llm), _told(settings))
        self._last, before = model, attempt.last_call
        if llm is None and not any(used is model for used in self._own_used):
            self._own_used.append(model)
        try:
            yield model, settings
        except UserError as error:
            if llm is None or not isinstance(model, OpenAIChatCompletionsModel):
                raise
            raise self._unserved(str(error)) from error
        except openai.BadRequestError as error:
            if llm is not None and error.code in UNSERVED:
                self._unserved(str(error))
            self.run.endpoint_error = attempt.infrastructure_error
            raise
        except Exception as error:
            self.run.endpoint_error = _not_the_agents(error) or attempt.infrastructure_error
            raise
        self.run.endpoint_error = None
        if llm is not None and attempt.last_call == before:
            _warn(model)

    def _llm(self) -> LLM | None:
        return self.run.trace.attempt.llm_for(context.current_role())

    def _own(self) -> Model:
        """The model that the agent would call without AGL."""
        agent, users = self.run.agent, self.users
        if isinstance(users.model, Model):
            return users.model
        if users.model is None and isinstance(agent.model, Model):
            return agent.model
        return users.model_provider.get_model(users.model or agent.model)

    def _own_settings(self, given: ModelSettings) -> ModelSettings:
        """The settings of a call that is left alone: a model in the run's configuration takes those away that come with a model's name."""
        agent, named = self.run.agent, self.users.model
        if agent.model_settings != _implied(agent.model) or isinstance(named, Model):
            return given
        return _implied(named or agent.model).resolve(given)

    async def _model_for(self, llm: LLM) -> Model:
        """The agent's model, or one in its place, with the attempt's endpoint."""
        try:
            own: Any = self._own()
        except openai.OpenAIError:  # the user's machine has no key for it
            own = None
        if isinstance(own, OpenAIResponsesModel) or (own is None and get_use_responses_by_default()):
            return await self._responses(own, llm)
        if own is None or isinstance(own, OpenAIChatCompletionsModel) or is_instance_of(own, *OTHER_SDKS):
            return await self._chat(own, llm)
        return own

    async def _responses(self, own: Any, llm: LLM) -> Model:
        client = await self._client(getattr(own, "_client", None), llm)
        if own is None or is_instance_of(own, OVER_WEBSOCKET):  # the endpoint of an attempt has no socket
            return OpenAIResponsesModel(self._name(own, llm), client)
        model = copy.copy(own)
        model._client = client
        return model

    async def _chat(self, own: Any, llm: LLM) -> Model:
        client = await self._client(getattr(own, "_client", None), llm)
        if isinstance(own, OpenAIChatCompletionsModel):
            model = copy.copy(own)
            model._client = client
            return model
        if self._chained:
            raise self._unserved("`auto_previous_response_id` leaves the history to the Responses API")
        return OpenAIChatCompletionsModel(self._name(own, llm), client)

    def _name(self, own: Any, llm: LLM) -> str:
        return str(getattr(own, "model", None) or self.users.model or self.run.agent.model or llm.model)

    async def _client(self, users: Any, llm: LLM) -> openai.AsyncOpenAI:
        key = id(users), llm.endpoint
        if key not in self._clients:
            self._clients[key] = users, await client_for(users, llm)
        return self._clients[key][1]

    def _unserved(self, why: str) -> UserError:
        role = context.current_role()
        self.run.trace.unserved = (
            f"a call of the role `{role}` cannot be made at the endpoint of an attempt, which is asked for chat completions: {why}. "
            f'Take that out of the agent, or leave the role to its own endpoint with `Trainer(roles={{"{role}": "original"}})`'
        )
        return UserError(self.run.trace.unserved)

    def _note(self, output: Any) -> None:
        self.run.asked = [item for item in output if getattr(item, "type", None) == "function_call"]


def _told(settings: ModelSettings) -> ModelSettings:
    """A stream tells its token counts only when it is asked to."""
    return settings if settings.include_usage is not None else dataclasses.replace(settings, include_usage=True)


def _implied(model: Any) -> ModelSettings:
    """Settings that an agent gets by the name of its model alone."""
    if model is None:
        return get_default_model_settings()
    return get_default_model_settings(model) if isinstance(model, str) else ModelSettings()


def _not_the_agents(error: Exception) -> str | None:
    """What is wrong at the endpoint; None when the request was refused for what it says."""
    status = getattr(error, "status_code", None)
    refused = isinstance(error, openai.APIStatusError) and isinstance(status, int) and (status >= 500 or status in NOT_THE_AGENTS)
    if refused or isinstance(error, openai.APIConnectionError):
        return f"the endpoint failed in a run that the agent went on after: {type(error).__name__}: {error}"
    return None


def _warn(model: Model) -> None:
    if type(model) not in _warned:
        _warned.add(type(model))
        log.warning(
            "a %s.%s made no call through the OpenAI SDK in an attempt: its calls go where it sends them, and are not learned from",
            type(model).__module__,
            type(model).__qualname__,
        )
