"""openai-python as it is: chat, text completions and Responses, whole and streamed, with tools and with several choices."""

import json
import os
from pathlib import Path

import openai

TOOL = {
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
FORCED = {"type": "function", "function": {"name": "weather"}}
USER = [{"role": "user", "content": "Name a city of France."}]
client = openai.OpenAI(max_retries=0)
said = []


def chat(stream, **options):
    answer = client.chat.completions.create(model="m", messages=USER, stream=stream, **{"max_tokens": 12, **options})
    if not stream:
        messages = [choice.message for choice in answer.choices]
        said.append([one.content or "".join(call.function.arguments for call in one.tool_calls or []) for one in messages])
        return
    texts = [""] * options.get("n", 1)
    for chunk in answer:
        for choice in chunk.choices:
            calls = choice.delta.tool_calls or []
            texts[choice.index] += (choice.delta.content or "") + "".join(call.function.arguments or "" for call in calls)
    said.append(texts)


def completions(stream):
    answer = client.completions.create(model="m", prompt="Once upon a time", max_tokens=12, n=2, stream=stream)
    texts = ["", ""]
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    said.append(texts)


def responses(stream):
    first = None
    for text in ("Name a city of France.", "And one of Italy?"):
        answer = client.responses.create(model="m", input=text, max_output_tokens=12, stream=stream, previous_response_id=first)
        done = list(answer)[-1].response if stream else answer
        first = done.id
        said.append([done.output_text])


for stream in (False, True):
    chat(stream, n=2)
    chat(stream, tools=[{"type": "function", "function": TOOL}])
    if "NO_FORCED_TOOLS" not in os.environ:
        chat(stream, tools=[{"type": "function", "function": TOOL}], tool_choice=FORCED, max_tokens=40)
    completions(stream)
    responses(stream)
Path(os.environ["SAID"]).write_text(json.dumps({"version": openai.__version__, "said": said}))
print(1)
