"""langchain-openai as it is: by either API of OpenAI's, whole and streamed, with a tool bound."""

import json
import os
from importlib.metadata import version
from pathlib import Path

from langchain_openai import ChatOpenAI

TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}
said = []
for responses in (False, True):
    model = ChatOpenAI(model="m", max_retries=0, max_tokens=12, use_responses_api=responses).bind_tools([TOOL])
    said.append([model.invoke("What is 1 + 2?").text])
    said.append(["".join(chunk.text for chunk in model.stream("What is 2 + 3?"))])
Path(os.environ["SAID"]).write_text(json.dumps({"version": version("langchain-openai"), "said": said}))
print(1)
