"""A plugin for Quill as it should be; the broken ones differ from it in one mistake each."""

import contextlib
import functools
import secrets
import threading
from urllib.parse import quote

import agl
from agl import context
from agl.spans import SpanKind


class Adapter(agl.AgentAdapter):
    name = "quill"

    def __init__(self, agent):
        self.agent = agent

    async def run(self, task, resources, rollout):
        return await self.agent.run(task)


class QuillPlugin:
    """Shadows three functions of Quill while at least one attempt is open."""

    adapter = Adapter

    def __init__(self):
        self._lock, self._open, self._originals = threading.Lock(), 0, {}

    @agl.hookimpl
    def agl_adapt_agent(self, agent):
        return self.adapter(agent) if agl.is_instance_of(agent, "quill:Agent") else None

    @agl.hookimpl
    @contextlib.contextmanager
    def agl_inject_resources(self, attempt):
        self.attempt_starts(attempt)
        self.install()
        try:
            yield
        finally:
            self.remove()
            self.attempt_ends(attempt)

    def attempt_starts(self, attempt):
        pass

    def attempt_ends(self, attempt):
        pass

    def install(self):
        import quill

        with self._lock:
            self._open += 1
            if self._open == 1:
                self.shadow(quill.Model, "complete", self.complete)
                self.shadow(quill.Agent, "system_message", self.system_message)
                quill.observers.append(self.observe)

    def shadow(self, cls, name, wrapper):
        original = self._originals[cls, name] = vars(cls)[name]

        @functools.wraps(original)
        def shadowed(this, *args, **kwargs):
            return wrapper(this, original, *args, **kwargs)

        setattr(cls, name, shadowed)

    def remove(self):
        import quill

        with self._lock:
            self._open -= 1
            if not self._open:
                for (cls, name), original in self._originals.items():
                    setattr(cls, name, original)
                quill.observers.remove(self.observe)

    def current(self):
        return agl.current()

    async def complete(self, model, original, messages, **options):
        attempt = self.current()
        if attempt is None:
            return await original(model, messages, **options)
        return await original(self.routed(model, attempt), messages, **options)

    def routed(self, model, attempt):
        """The attempt's own model, and headers that say which call of which role under which span this is."""
        headers = {"x-agl-call": secrets.token_hex(8), "traceparent": f"00-{attempt.trace_id}-{context.current_span()}-01"}
        if context.current_role():
            headers["x-agl-role"] = quote(context.current_role())
        return type(model)(attempt.llm.base_url, attempt.llm.api_key, attempt.llm.model, retries=model.retries, headers=headers)

    def system_message(self, agent, original):
        attempt = self.current()
        prompt = attempt.resources.get(f"{agent.name}_instructions") if attempt else None
        return {"role": "system", "content": prompt.template} if prompt else original(agent)

    @contextlib.contextmanager
    def observe(self, kind, name):
        with contextlib.ExitStack() as stack:
            if kind == "agent":
                stack.enter_context(self.role(name))
            stack.enter_context(agl.operation(name, SpanKind(kind)))
            yield

    def role(self, name):
        return agl.role(name)
