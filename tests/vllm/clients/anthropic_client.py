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


def texts_of(message):
    return [block.text if block.type == "text" else block.input.get("INVALID_JSON", json.dumps(block.input)) for block in message.content]


for tools in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}}):
    asked = {"model": "m", "max_tokens": 40, "system": "Be brief.", "messages": [{"role": "user", "content": "Weather in Rome?"}], **tools}
    said.append(texts_of(client.messages.create(**asked)))
    with client.messages.stream(**asked) as stream:
        said.append(texts_of(stream.get_final_message()))
Path(os.environ["SAID"]).write_text(json.dumps({"version": anthropic.__version__, "said": said}))
print(1)
