"""Plugins for Quill with one mistake each, of the kind that people make; `CAUGHT` names the checks that catch it."""

import asyncio
import contextlib
import contextvars
import secrets
import threading
import time

import msgspec
from agl_quill import Adapter, QuillPlugin

import agl
from agl import context
from agl.spans import SpanKind

CAUGHT = {}
_CURRENT = contextvars.ContextVar("quill_attempt", default=None)


def caught_by(*checks, perhaps=()):
    """The checks that fail, and those that fail or not with the order in which attempts end."""

    def note(plugin):
        CAUGHT[plugin] = {f"test_{check}" for check in checks}, {f"test_{check}" for check in perhaps}
        return plugin

    return note


# Whose call is it?


@caught_by("nothing_leaks_into_the_context")
class LeaksContext(QuillPlugin):
    """Notes the attempt in a context variable, and never takes it back."""

    def attempt_starts(self, attempt):
        _CURRENT.set(attempt)


@caught_by(
    "rollouts_with_different_resources_never_mix",
    "gathered_runs_keep_their_spans",
    "threads_keep_their_spans",
    perhaps=["an_exception_fails_its_attempt_alone"],
)
class MixesRollouts(QuillPlugin):
    """Keeps the attempt on the plugin: right as long as there is only one."""

    def attempt_starts(self, attempt):
        self.attempt = attempt

    def current(self):
        return self.attempt if agl.current() else None


@caught_by("threads_keep_their_spans")
class LosesThreads(QuillPlugin):
    """Works in the event loop's thread only."""

    def attempt_starts(self, attempt):
        self.home = threading.get_ident()

    def current(self):
        return agl.current() if threading.get_ident() == self.home else None


@caught_by(
    "every_call_goes_through_the_attempt",
    "every_call_is_a_transition",
    "roles_are_those_of_the_callers",
    "token_ids_arrive_in_the_transitions",
    "gathered_runs_keep_their_spans",
    "threads_keep_their_spans",
    "rollouts_with_different_resources_never_mix",
    "streams_are_recorded",
    "retries_are_not_counted_twice",
    "a_stopped_rollout_stops_its_work",
)
class IgnoresTheEndpoint(QuillPlugin):
    """Takes the attempt's model and leaves the user's URL and key."""

    def routed(self, model, attempt):
        return type(model)(model.base_url, model.api_key, attempt.llm.model, retries=model.retries)


@caught_by("roles_are_those_of_the_callers", "gathered_runs_keep_their_spans", "threads_keep_their_spans")
class WrongRoles(QuillPlugin):
    """Names the agent that calls, without the agents above it."""

    @contextlib.contextmanager
    def role(self, name):
        outer = context.current_role()
        context.set_role(name)
        try:
            yield
        finally:
            context.set_role(outer)


@caught_by("spans_form_one_tree", "gathered_runs_keep_their_spans", "threads_keep_their_spans")
class OrphanSpans(QuillPlugin):
    """Gives the call a span of its own that it never records."""

    def routed(self, model, attempt):
        routed = super().routed(model, attempt)
        routed.headers["traceparent"] = f"00-{attempt.trace_id}-{secrets.token_hex(8)}-01"
        return routed


@caught_by("retries_are_not_counted_twice")
class CountsRetriesTwice(QuillPlugin):
    """Makes the call's id where a request is sent, so that every try has its own."""

    def routed(self, model, attempt):
        routed = super().routed(model, attempt)

        async def send(body):
            routed.headers["x-agl-call"] = secrets.token_hex(8)
            return await type(routed).send(routed, body)

        routed.send = send
        return routed


@caught_by("streams_are_recorded")
class LosesStreams(QuillPlugin):
    """Passes on the options that its author knew of."""

    async def complete(self, model, original, messages, *, tools=(), **options):
        return await super().complete(model, original, messages, tools=tools)


# What becomes of the call?


@caught_by(
    "every_call_is_a_transition", "roles_are_those_of_the_callers", "token_ids_arrive_in_the_transitions", "retries_are_not_counted_twice"
)
class DropsABranch(QuillPlugin):
    """Takes calls with the same prompt for retries, and keeps the last."""

    @agl.hookimpl
    def agl_assign_credit(self, result, transitions):
        return list({item.prompt_ids: msgspec.structs.replace(item, reward=result.reward) for item in transitions}.values())


@caught_by("token_ids_arrive_in_the_transitions")
class ChangesTokenIds(QuillPlugin):
    """Cuts the token that ends a turn off, since it is no part of the text."""

    @agl.hookimpl
    def agl_assign_credit(self, result, transitions):
        return [
            msgspec.structs.replace(item, response_ids=item.response_ids[:-1], logprobs=item.logprobs[:-1], reward=result.reward)
            for item in transitions
        ]


@caught_by("tool_calls_are_recorded")
class LosesToolSpans(QuillPlugin):
    """Records tools as any other piece of work."""

    @contextlib.contextmanager
    def observe(self, kind, name):
        if kind != "tool":
            with super().observe(kind, name):
                yield
            return
        with agl.operation(name, SpanKind.OPERATION):
            yield


# What is left behind?


@caught_by("undo_leaves_the_original_objects")
class ForgetsToUndo(QuillPlugin):
    """Shadows once and for all: outside an attempt the shadow passes everything on."""

    def remove(self):
        with self._lock:
            self._open = max(1, self._open - 1)


@caught_by("undo_leaves_the_original_objects")
class UndoesOutOfOrder(QuillPlugin):
    """Every attempt puts back what it found, which is another one's shadow when they overlap."""

    def attempt_starts(self, attempt):
        import quill

        found = attempt.found = quill.Model.complete

        async def complete(model, messages, **options):
            return await self.complete(model, found, messages, **options)

        quill.Model.complete = complete

    def attempt_ends(self, attempt):
        import quill

        quill.Model.complete = attempt.found

    def shadow(self, cls, name, wrapper):
        if name != "complete":
            super().shadow(cls, name, wrapper)


@caught_by("resources_return_after_the_attempt")
class KeepsResources(QuillPlugin):
    """Puts the improved prompt into the agent itself, for good."""

    def system_message(self, agent, original):
        found = super().system_message(agent, original)
        agent.instructions = found["content"]
        return found


@caught_by("prompts_reach_the_model")
class LosesPrompts(QuillPlugin):
    """Looks for the prompt under a name that resources do not have."""

    def system_message(self, agent, original):
        attempt = self.current()
        prompt = attempt.resources.get(f"{context.current_role()}.instructions") if attempt else None
        return {"role": "system", "content": prompt.template} if prompt else original(agent)


# How does the attempt end?


class Swallows(Adapter):
    async def run(self, task, resources, rollout):
        try:
            return await super().run(task, resources, rollout)
        except Exception as error:
            return f"the agent failed: {error}"


@caught_by("an_exception_fails_its_attempt_alone")
class SwallowsErrors(QuillPlugin):
    """Makes an exception an output."""

    adapter = Swallows


class Shields(Adapter):
    async def run(self, task, resources, rollout):
        work = asyncio.ensure_future(super().run(task, resources, rollout))
        return await asyncio.shield(work)


@caught_by("a_stopped_rollout_stops_its_work")
class GoesOnWhenStopped(QuillPlugin):
    """Shields the agent, so that it can clean up."""

    adapter = Shields


class Limits(Adapter):
    async def run(self, task, resources, rollout):
        time.sleep(0.31)
        return await super().run(task, resources, rollout)


@caught_by("the_event_loop_is_never_blocked")
class BlocksTheLoop(QuillPlugin):
    """Waits a little between runs, for an endpoint that limits their rate, as one does in code without a loop."""

    adapter = Limits


class Forgets(Adapter):
    async def run(self, task, resources, rollout):
        await super().run(task, resources, rollout)


@caught_by("a_rollout_gives_the_agents_output")
class ForgetsTheOutput(QuillPlugin):
    """Runs the agent and returns nothing."""

    adapter = Forgets


@caught_by("recognises_its_own_agents_only")
class TakesEveryAgent(QuillPlugin):
    """Takes whatever can be run."""

    @agl.hookimpl
    def agl_adapt_agent(self, agent):
        return self.adapter(agent) if hasattr(agent, "run") else None
