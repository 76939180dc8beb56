"""Examples in the forms that TRL's trainers take (its "conversational" datasets), as of TRL 1.16.

`tools` is JSON text, as TRL reads it; `null` where none were offered. Arguments of tool calls are objects.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from statistics import fmean
from typing import Any, cast

from agl.export.calls import Message, text, tool_calls_of, with_object_arguments
from agl.export.conversations import Exchange, conversations_of, exchanges_of
from agl.results import RolloutResult
from agl.roles import Roles

Example = dict[str, Any]
_KEPT = ("content", "tool_call_id", "name", "reasoning_content")
_ROLES = {"developer": "system"}


class NotText(Exception):
    """A message holds something else than text."""


class TRL:
    """Makes examples from groups of rollouts.

    Args:
        roles: which calls are learned from; the others are no answers to learn.
        label_at: for `kto`: an answer whose own reward is at least this is a good one.
    """

    def __init__(self, roles: Roles, label_at: float | None = None) -> None:
        self._roles, self._label_at = roles, label_at
        self._asked: set[str] = set()
        self.left_out: Counter[str] = Counter()
        """Examples that could not be made, by reason."""

    def sft(self, group: Sequence[RolloutResult]) -> Iterator[Example]:
        """`messages`, `tools`: a whole conversation; a trainer learns from every assistant message in it."""
        for result in group:
            for item in conversations_of(exchanges_of(result, self._roles)):
                if item.learned:
                    with self._texts():
                        yield {"messages": list(map(message, item.messages)), "tools": text(item.tools)}

    def prompt_completion(self, group: Sequence[RolloutResult]) -> Iterator[Example]:
        """`prompt`, `completion`, `tools`: each answer by itself, under the very messages that it was given for."""
        for exchange in self._learned(group):
            with self._texts():
                yield _example(exchange, completion=exchange)

    def grpo(self, group: Sequence[RolloutResult]) -> Iterator[Example]:
        """`prompt`, `tools`, `task_id`, `task`: the first prompt of each task, with the task for the reward functions as JSON text."""
        for result in group:
            exchange = next((item for item in exchanges_of(result, self._roles) if item.learned), None)
            if exchange is not None and result.task.task_id not in self._asked:
                self._asked.add(result.task.task_id)
                with self._texts():
                    yield {**_example(exchange), "task_id": result.task.task_id, "task": text(result.task.data)}

    def dpo(self, group: Sequence[RolloutResult]) -> Iterator[Example]:
        """`prompt`, `chosen`, `rejected`, `tools`: the best and the worst answer that siblings gave to the same prompt.

        An answer that several gave counts with the mean of its rewards.
        """
        by_prompt: dict[str, list[Exchange]] = {}
        for exchange in self._judged(group):
            by_prompt.setdefault(text([exchange.prompt, exchange.tools]), []).append(exchange)
        for same in by_prompt.values():
            with self._texts():
                best, worst = _apart(same)
                if best is None or worst is None:
                    self.left_out["prompts whose answers do not differ, or not in reward"] += 1
                    continue
                yield _example(best, chosen=best, rejected=worst)

    def kto(self, group: Sequence[RolloutResult]) -> Iterator[Example]:
        """`prompt`, `completion`, `label`, `tools`: each answer that has a reward, good or not."""
        assert self._label_at is not None
        for exchange in self._judged(group):
            with self._texts():
                yield _example(exchange, completion=exchange) | {"label": _reward(exchange) >= self._label_at}

    def _learned(self, group: Sequence[RolloutResult]) -> list[Exchange]:
        return [item for result in group for item in exchanges_of(result, self._roles) if item.learned]

    def _judged(self, group: Sequence[RolloutResult]) -> list[Exchange]:
        learned = self._learned(group)
        judged = [item for item in learned if item.reward is not None]
        if len(judged) < len(learned):
            self.left_out["answers without a reward"] += len(learned) - len(judged)
        return judged

    @contextlib.contextmanager
    def _texts(self) -> Generator[None]:
        try:
            yield
        except NotText:
            self.left_out["examples with images or other content that is no text"] += 1


def _reward(exchange: Exchange) -> float:
    assert exchange.reward is not None
    return exchange.reward


def _apart(exchanges: Sequence[Exchange]) -> tuple[Exchange, Exchange] | tuple[None, None]:
    """The answers with the highest and the lowest reward; None where there is no difference."""
    by_answer: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        by_answer.setdefault(text(message(exchange.answer)), []).append(exchange)
    means = {answer: fmean(map(_reward, same)) for answer, same in by_answer.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return (by_answer[best][0], by_answer[worst][0]) if means[best] > means[worst] else (None, None)


def _example(exchange: Exchange, **answers: Exchange) -> Example:
    prompt = list(map(message, exchange.prompt))
    return {"prompt": prompt, **{name: [message(item.answer)] for name, item in answers.items()}, "tools": text(exchange.tools)}


def message(given: Message) -> Message:
    """A chat message as chat templates take it.

    Raises:
        NotText: it holds an image, say.
    """
    role = given.get("role", "assistant")
    kept = {name: given[name] for name in _KEPT if given.get(name) is not None}
    made: Message = {"role": _ROLES.get(role, role), **kept, "content": _content(given.get("content"))}
    if calls := tool_calls_of(given):
        made["tool_calls"] = [with_object_arguments(call) for call in calls]
    return made


def _content(content: Any) -> str:
    if isinstance(content, str | None):
        return content or ""
    parts: list[Any] = cast(list[Any], content) if isinstance(content, list) else [content]
    return "".join(map(_text_of, parts))


def _text_of(part: Any) -> str:
    found: Any = cast(dict[str, Any], part).get("text") if isinstance(part, dict) else None
    if not isinstance(found, str):
        raise NotText
    return found
