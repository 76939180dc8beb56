"""Reading examples for fine-tuning, of TRL and of OpenAI: each answer in them becomes a call, without tokens.

A choice between answers, or a label, is a judgement: it becomes the reward 1 or 0, with `preference` or `label` as its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from agl.errors import DataError
from agl.export.calls import Message, call_from, tool_calls_of, with_text_arguments
from agl.export.made import Given
from agl.rewards import FINAL
from agl.spans import Choice, LLMCall

Record = dict[str, Any]
FORMS = {
    frozenset({"messages"}): "a conversation",
    frozenset({"prompt", "completion"}): "an answer with its prompt, and a `label` or none",
    frozenset({"prompt", "chosen", "rejected"}): "a better and a worse answer",
}


def read_example(record: Record) -> list[Given]:
    """The rollouts that a record tells of: siblings where it holds two answers.

    Raises:
        DataError: it is of no known form, or holds no answer.
    """
    if "messages" in record:
        return [_given(_messages(record, "messages"), 0, record)]
    if {"prompt", "chosen", "rejected"} <= record.keys():
        return [_completed(record, name, ("preference", value)) for name, value in (("chosen", 1.0), ("rejected", 0.0))]
    if {"prompt", "completion"} <= record.keys():
        label = record.get("label")
        return [_completed(record, "completion", None if label is None else ("label", float(bool(label))))]
    known = "; ".join(f"{sorted(names)}: {what}" for names, what in FORMS.items())
    raise DataError(f"it has the fields {sorted(record)}, which is no known form. Known are {known}")


def _completed(record: Record, name: str, judged: tuple[str, float] | None) -> Given:
    if isinstance(record["prompt"], str):
        given = _text(record["prompt"], record[name])
    else:
        prompt = _messages(record, "prompt")
        given = _given([*prompt, *_messages(record, name)], len(prompt), record)
    return given if judged is None else msgspec.structs.replace(given, rewards=[(FINAL, judged[1], judged[0])])


def _text(prompt: str, completion: Any) -> Given:
    if not isinstance(completion, str):
        raise DataError("`prompt` is a text and the answer is none")
    answer = {"role": "assistant", "content": completion}
    call = call_from({"prompt": prompt}, [answer], [Choice()], dialect="completions")
    return Given(calls=[call], task={"prompt": prompt})


def _given(messages: list[Message], start: int, record: Record) -> Given:
    """A call for each answer from `start` on; the prompt of the first one is the task."""
    tools = record.get("tools")
    tools = msgspec.json.decode(tools) if isinstance(tools, str) else tools
    answers = [number for number, item in enumerate(messages) if number >= start and _is_answer(item)]
    if not answers:
        raise DataError("it holds no message of the assistant that is to be learned")
    return Given(calls=[_call(messages, number, tools) for number in answers], task={"messages": list(map(_plain, messages[: answers[0]]))})


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def _call(messages: Sequence[Message], number: int, tools: Any) -> LLMCall:
    request: dict[str, Any] = {"messages": list(map(_plain, messages[:number]))} | ({"tools": tools} if tools else {})
    return call_from(request, [_plain(messages[number])], [Choice()])


def _plain(message: Message) -> Message:
    """A message as the chat API has it: arguments of tool calls as text, and no weight."""
    kept = {name: value for name, value in message.items() if name != "weight" and value is not None}
    calls = tool_calls_of(message)
    return {**kept, "tool_calls": list(map(with_text_arguments, calls))} if calls else kept


def _messages(record: Record, name: str) -> list[Message]:
    value = record[name]
    if not isinstance(value, list) or not value or not all(_is_message(item) for item in cast(list[Any], value)):
        raise DataError(f"`{name}` must be a list of messages with a `role`, at least one, given was {str(cast(object, value))[:80]}")
    return cast(list[Message], value)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(cast(dict[str, Any], value).get("role"), str)
