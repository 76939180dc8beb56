"""anthropic as it is: Messages, whole and streamed, with and without tools."""

import json
import os
from pathlib import Path

import anthropic

TOOL = {
    "name": "weather",
    "description": "Weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
client = anthropic.Anthropic(max_retries=0)
said = []


def text_of(block):
    """A tool's arguments are an object; what the model wrote instead is told as a text."""
    if block.type == "text":
        return block.text
    return block.input["INVALID_JSON"] if isinstance(block.input, dict) and "INVALID_JSON" in block.input else json.dumps(block.input)


def texts_of(message):
    return [text_of(block) for block in message.content]


FORCED = [] if "NO_FORCED_TOOLS" in os.environ else [{"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}}]
for tools in ({}, {"tools": [TOOL]}, *FORCED):
    asked = {"model": "m", "max_tokens": 40, "system": "Be brief.", "messages": [{"role": "user", "content": "Weather in Rome?"}], **tools}
    said.append(texts_of(client.messages.create(**asked)))
    with client.messages.stream(**asked) as stream:
        said.append(texts_of(stream.get_final_message()))
Path(os.environ["SAID"]).write_text(json.dumps({"version": anthropic.__version__, "said": said}))
print(1)
