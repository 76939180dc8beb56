"""What the pairs of frameworks share: a LangGraph agent with a tool that rewards, and a model that calls each tool once."""

from langchain_core.tools import tool

import agl
from agl.testing import Reply


@tool
def count(word: str) -> int:
    """Count the letters of a word."""
    agl.emit_reward(len(word), "letters")
    return len(word)


def answer(body):
    """Each conversation calls the tool that it offers once."""
    offered = [item["function"]["name"] for item in body.get("tools", ())]
    used = any(message["role"] == "tool" for message in body["messages"])
    arguments = {"count": {"word": "cat"}, "look_up": {"topic": "cats"}}
    return "ok" if used or not offered else Reply(None, [(offered[0], arguments[offered[0]])])
