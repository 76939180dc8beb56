"""Quill: a toy agent framework with helpers, tools, streams, retries and observers. It speaks HTTP itself, without any SDK."""

import asyncio
import contextlib
import json

import aiohttp

observers = []
"""Functions of a kind (`agent`, `model`, `tool`) and a name that give a context manager."""


class Refused(Exception):
    """The endpoint refused a call."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


class Model:
    """A model behind an OpenAI-compatible URL."""

    def __init__(self, base_url, api_key, name, *, retries=1, headers=None):
        self.base_url, self.api_key, self.name, self.retries, self.headers = base_url, api_key, name, retries, headers or {}

    async def complete(self, messages, *, tools=(), stream=False):
        """The model's next message; a call that fails at the endpoint is made again."""
        body = {"model": self.name, "messages": messages, "stream": stream} | ({"tools": list(tools)} if tools else {})
        for left in reversed(range(self.retries + 1)):
            try:
                return await self.send(body)
            except Refused as error:
                if error.status < 500 or not left:
                    raise

    async def send(self, body):
        """One try of a call."""
        headers = {"Authorization": f"Bearer {self.api_key}", **self.headers}
        async with aiohttp.ClientSession() as session, session.post(f"{self.base_url}/chat/completions", json=body, headers=headers) as got:
            if got.status != 200:
                raise Refused(got.status, await got.text())
            if not body["stream"]:
                return (await got.json())["choices"][0]["message"]
            return _joined([json.loads(line[5:]) async for line in got.content if line.startswith(b"data:") and b"[DONE]" not in line])


class Agent:
    """Asks its helpers, all at once, then its model, and calls the tools that the model asks for."""

    def __init__(self, name, model, *, instructions="Help.", tools=(), helpers=(), stream=False):
        self.name, self.model, self.instructions, self.helpers, self.stream = name, model, instructions, helpers, stream
        self.tools = {tool.__name__: tool for tool in tools}

    async def run(self, text):
        """The answer to a text."""
        with observed("agent", self.name):
            told = await asyncio.gather(*(helper.run(text) for helper in self.helpers))
            messages = [self.system_message(), {"role": "user", "content": "\n".join([text, *told])}]
            offered = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in self.tools]
            while True:
                with observed("model", self.name):
                    message = await self.model.complete(messages, tools=offered, stream=self.stream)
                messages.append(message)
                if not message.get("tool_calls"):
                    return message["content"]
                messages += [self.call_tool(call) for call in message["tool_calls"]]

    def run_sync(self, text):
        """The same for code that blocks."""
        return asyncio.run(self.run(text))

    def system_message(self):
        """What the model is told first."""
        return {"role": "system", "content": self.instructions}

    def call_tool(self, call):
        """Run a tool that the model asks for."""
        with observed("tool", call["function"]["name"]):
            result = self.tools[call["function"]["name"]](**json.loads(call["function"]["arguments"]))
        return {"role": "tool", "tool_call_id": call["id"], "content": str(result)}


@contextlib.contextmanager
def observed(kind, name):
    """Let the observers see a piece of work."""
    with contextlib.ExitStack() as stack:
        for observer in list(observers):
            stack.enter_context(observer(kind, name))
        yield


def _joined(chunks):
    """The message of a stream."""
    message = {"role": "assistant", "content": ""}
    for chunk in chunks:
        if "error" in chunk:
            raise Refused(502, chunk["error"]["message"])
        delta = chunk["choices"][0]["delta"]
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            message.setdefault("tool_calls", []).append({name: value for name, value in call.items() if name != "index"})
    return message
